"""ATSS with BRS Loss on the cards, 2 images per iteration, ranked against the 6 images before them."""

_base_ = 'cards_atss_batch2.py'

model = dict(bbox_head=dict(type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss', memory=3)))
