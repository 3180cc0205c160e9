"""Ablation on the cards: focal loss with BRS Loss's box weights and self-balancing, and without centerness."""

_base_ = 'cards_atss_focal-weighted.py'

model = dict(bbox_head=dict(loss_cls=dict(self_balancing=True)))
