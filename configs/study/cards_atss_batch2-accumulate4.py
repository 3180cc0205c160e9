"""ATSS with focal loss on the cards, 2 images per iteration and 4 iterations per update."""

_base_ = '../cards/atss_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

train_dataloader = dict(batch_size=2)
optim_wrapper = dict(accumulative_counts=4)
# As many images as the warm-up of the config with 8 images per iteration.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=12, convert_to_iter_based=True),
]
