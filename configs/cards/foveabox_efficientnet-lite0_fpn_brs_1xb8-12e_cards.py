_base_ = './foveabox_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

model = dict(
    bbox_head=dict(
        type='RankBasedFoveaHead',
        loss_cls=dict(_delete_=True, type='BucketedRSLoss'),
        loss_bbox=dict(_delete_=True, type='GIoULoss'),
    )
)
