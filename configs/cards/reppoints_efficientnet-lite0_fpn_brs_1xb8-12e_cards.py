_base_ = './reppoints_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

model = dict(
    bbox_head=dict(
        type='RankBasedRepPointsHead',
        loss_cls=dict(_delete_=True, type='BucketedRSLoss'),
        loss_bbox_init=dict(_delete_=True, type='GIoULoss', loss_weight=1.0),
        loss_bbox_refine=dict(_delete_=True, type='GIoULoss', loss_weight=2.0),
    )
)
