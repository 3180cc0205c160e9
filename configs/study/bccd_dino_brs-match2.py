_base_ = ['../bccd/dino_efficientnet-lite0_focal_1xb4-12e_bccd.py', '../_base_/models/rank_based_queries.py']

# BRS Loss with the matching of the stock detector.
model = dict(bbox_head=dict(type='RankBasedDINOHead', loss_cls=_base_.rank_based_loss))
