"""ATSS with BRS Loss on the cards, 2 images per iteration and 4 iterations per update."""

_base_ = 'cards_atss_batch2-accumulate4.py'

model = dict(bbox_head=dict(type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
