"""ATSS with BRS Loss on the cards, 4 images per iteration and 2 iterations per update."""

_base_ = 'cards_atss_batch4-accumulate2.py'

model = dict(bbox_head=dict(type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
