"""ATSS with focal loss on the cards, 4 images per iteration and 2 iterations per update."""

_base_ = 'cards_atss_batch4.py'

optim_wrapper = dict(accumulative_counts=2)
auto_scale_lr = dict(enable=False)  # the learning rate of 8 images
