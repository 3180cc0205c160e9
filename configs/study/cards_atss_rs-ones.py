"""Ablation on the cards: RS Loss where the IoU of every positive is replaced by 1."""

_base_ = '../cards/atss_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

# The sorting error is then 0, and what is left is AP Loss with RS Loss's delta and self-balancing.
model = dict(
    bbox_head=dict(
        type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='APLoss', delta=0.5, self_balancing=True)
    )
)
