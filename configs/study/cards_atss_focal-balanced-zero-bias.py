"""Ablation on the cards: what BRS Loss changes except the ranking: box weights, self-balancing, a bias of 0."""

_base_ = 'cards_atss_focal-balanced.py'

model = dict(bbox_head=dict(classifier_prior=0.5))
