"""ATSS with focal loss on drawn shapes, one anchor per place."""

_base_ = '../shapes/atss_efficientnet-lite0_fpn_focal_1xb8-12e_shapes.py'

model = dict(bbox_head=dict(anchor_generator=dict(scales_per_octave=1)))
