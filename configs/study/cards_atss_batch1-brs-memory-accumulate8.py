"""ATSS with BRS Loss on the cards, 1 image per iteration with the 7 before it, and 8 iterations per update."""

_base_ = 'cards_atss_batch1-brs-accumulate8.py'

model = dict(bbox_head=dict(loss_cls=dict(memory=7)))
