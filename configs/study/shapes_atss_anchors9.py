"""ATSS with focal loss on drawn shapes, nine anchors per place: three scales with three ratios."""

_base_ = '../shapes/atss_efficientnet-lite0_fpn_focal_1xb8-12e_shapes.py'

model = dict(bbox_head=dict(anchor_generator=dict(ratios=[0.5, 1.0, 2.0])))
