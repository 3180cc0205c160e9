"""Ablation on the cards: BRS Loss without self-balancing; the box loss keeps its weight of 2."""

_base_ = '../cards/atss_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

model = dict(
    bbox_head=dict(type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss', self_balancing=False))
)
