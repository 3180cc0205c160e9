_base_ = './faster-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py'

rank_based_bbox_head = dict(
    type='RankBasedShared2FCBBoxHead',
    in_channels=96,
    fc_out_channels=256,
    roi_feat_size=5,
    num_classes=3,
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
    reg_class_agnostic=True,
    loss_cls=dict(type='BucketedRSLoss'),
    loss_bbox=dict(type='GIoULoss'),
)
model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        type='RankBasedCascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 1, 1],
        bbox_head=[rank_based_bbox_head] * 3,
    ),
    train_cfg=dict(rcnn=_base_.rank_based_cascade_stages),
)
