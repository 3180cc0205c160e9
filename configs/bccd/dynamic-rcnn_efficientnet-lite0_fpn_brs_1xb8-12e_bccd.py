_base_ = ['./dynamic-rcnn_efficientnet-lite0_fpn_ce_1xb8-12e_bccd.py', '../_base_/models/rank_based_rcnn.py']

model = dict(_base_.rank_based_rcnn, roi_head=dict(_base_.rank_based_rcnn['roi_head'], type='RankBasedDynamicRoIHead'))
