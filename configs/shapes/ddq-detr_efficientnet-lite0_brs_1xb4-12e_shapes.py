_base_ = ['./ddq-detr_efficientnet-lite0_focal_1xb4-12e_shapes.py', '../_base_/models/rank_based_queries.py']

model = dict(
    bbox_head=dict(type='RankBasedDDQDETRHead', loss_cls=_base_.rank_based_loss),
    train_cfg=_base_.rank_based_matching,
)
