"""ATSS with focal loss on the cards, 1 image per iteration; the learning rate follows by the linear rule."""

_base_ = '../cards/atss_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(enable=True)
# As many images as the warm-up of the config with 8 images per iteration.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=400),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=12, convert_to_iter_based=True),
]
