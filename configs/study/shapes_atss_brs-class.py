"""ATSS with BRS Loss on drawn shapes, each class ranked on its own."""

_base_ = '../shapes/atss_efficientnet-lite0_fpn_focal_1xb8-12e_shapes.py'

model = dict(
    bbox_head=dict(type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss', scope='class'))
)
