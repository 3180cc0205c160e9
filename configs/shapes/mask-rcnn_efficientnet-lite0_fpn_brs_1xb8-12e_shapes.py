_base_ = ['./mask-rcnn_efficientnet-lite0_fpn_ce_1xb8-12e_shapes.py', '../_base_/models/rank_based_rcnn.py']

# Masks keep the inherited cross-entropy per pixel. The config named brs-dice trains them with the published Dice Loss.
model = dict(
    _base_.rank_based_rcnn,
    roi_head=dict(_base_.rank_based_rcnn['roi_head'], mask_head=dict(type='RankBasedFCNMaskHead')),
)
