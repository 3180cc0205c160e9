_base_ = './retinanet_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

model = dict(
    bbox_head=dict(
        type='RankBasedRetinaHead',
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(_delete_=True, type='BucketedRSLoss'),
        loss_bbox=dict(_delete_=True, type='GIoULoss'),
    )
)
