"""Ablation on BCCD: stock ATSS with focal loss; the bias of the classifier starts at 0."""

_base_ = '../bccd/atss_efficientnet-lite0_fpn_focal_1xb8-12e_bccd.py'

# Without the override of ATSSHead's default for `atss_cls`.
model = dict(bbox_head=dict(init_cfg=dict(type='Normal', layer='Conv2d', std=0.01)))
