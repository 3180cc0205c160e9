"""ATSS with focal loss on the cards, 1 image per iteration and 8 iterations per update."""

_base_ = 'cards_atss_batch1.py'

optim_wrapper = dict(accumulative_counts=8)
auto_scale_lr = dict(enable=False)  # the learning rate of 8 images
