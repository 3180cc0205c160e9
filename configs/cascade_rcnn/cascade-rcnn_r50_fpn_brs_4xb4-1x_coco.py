_base_ = ['mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', '../_base_/models/rank_based_rcnn.py']

custom_imports = dict(imports=['bucketed_losses.mmdet'])
custom_hooks = [dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))

bbox_head = dict(
    type='RankBasedShared2FCBBoxHead',
    in_channels=256,
    fc_out_channels=1024,
    roi_feat_size=7,
    num_classes=80,
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
    reg_class_agnostic=True,
    loss_cls=dict(type='BucketedRSLoss'),
    loss_bbox=dict(type='GIoULoss'),
)
model = dict(
    rpn_head=_base_.rank_based_rpn_head,
    roi_head=dict(
        type='RankBasedCascadeRoIHead', stage_loss_weights=[1, 1, 1], bbox_head=[bbox_head, bbox_head, bbox_head]
    ),
    # As in the published training logs: 1000 proposals (the paper's text has 2000, as MMDetection has), and no
    # anchors across the border of the image. With allowed_border=-1, these anchors are ranked too.
    train_cfg=dict(
        rpn=dict(sampler=dict(_delete_=True, type='PseudoSampler'), allowed_border=0),
        rpn_proposal=dict(max_per_img=1000),
        rcnn=_base_.rank_based_cascade_stages,
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.40)),
)

# 4 GPUs x 4 images; the rest of the schedule (12 epochs, steps 8 and 11) is MMDetection's 1x.
train_dataloader = dict(batch_size=4, num_workers=4, dataset=dict(type='CheckedCocoDataset'))
optim_wrapper = dict(optimizer=dict(lr=0.012))
auto_scale_lr = dict(base_batch_size=16)
