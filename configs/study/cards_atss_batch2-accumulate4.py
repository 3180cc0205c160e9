"""ATSS with focal loss on the cards, 2 images per iteration and 4 iterations per update."""

_base_ = 'cards_atss_batch2.py'

optim_wrapper = dict(accumulative_counts=4)
auto_scale_lr = dict(enable=False)  # the learning rate of 8 images
