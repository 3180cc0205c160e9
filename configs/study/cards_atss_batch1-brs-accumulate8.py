"""ATSS with BRS Loss on the cards, 1 image per iteration and 8 iterations per update."""

_base_ = 'cards_atss_batch1-accumulate8.py'

model = dict(bbox_head=dict(type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
