_base_ = '../bccd/deformable-detr_efficientnet-lite0_brs_1xb4-12e_bccd.py'

# BRS Loss, matched with the stock weight of the class cost.
model = dict(
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ]
        )
    )
)
