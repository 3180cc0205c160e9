"""BRS Loss, and the published Dice Loss for masks."""

_base_ = ['./mask-rcnn_efficientnet-lite0_fpn_ce_1xb8-12e_shapes.py', '../_base_/models/rank_based_rcnn.py']

model = _base_.rank_based_mask_rcnn
