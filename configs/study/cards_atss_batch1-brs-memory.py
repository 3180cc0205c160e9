"""ATSS with BRS Loss on the cards, 1 image per iteration, ranked against the 7 images before it."""

_base_ = 'cards_atss_batch1.py'

model = dict(bbox_head=dict(type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss', memory=7)))
