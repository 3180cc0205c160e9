"""The settings that turn Co-DETR into BRS-DETR (Sec. 5 and S.3.3). Inherit this and a Co-DETR config, and write
``model = _base_.brs_detr``."""

decoder_loss = dict(_delete_=True, type='BucketedRSLoss', loss_weight=2.0)
auxiliary_loss = dict(_delete_=True, type='BucketedRSLoss', loss_weight=5.0)
# Scaled to the ranking losses, whatever its weight.
box_loss = dict(_delete_=True, type='GIoULoss')

brs_detr = dict(
    bbox_head=dict(type='RankBasedCoDeformDETRHead', loss_cls=decoder_loss),
    rpn_head=dict(
        type='RankBasedRPNHead',
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=auxiliary_loss,
        loss_bbox=box_loss,
    ),
    roi_heads=dict(
        type='RankBasedCoRoIHead',
        bbox_head=dict(type='RankBasedShared2FCBBoxHead', loss_cls=auxiliary_loss, loss_bbox=box_loss),
    ),
    # Without centerness.
    dense_heads=dict(type='RankBasedCoATSSHead', loss_cls=auxiliary_loss, loss_bbox=box_loss),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=4.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ]
        ),
        # Nothing is sampled: all anchors, all proposals.
        rpn=dict(sampler=dict(_delete_=True, type='PseudoSampler')),
        rcnn=dict(sampler=dict(num=1000000, pos_fraction=1.0)),
    ),
)
