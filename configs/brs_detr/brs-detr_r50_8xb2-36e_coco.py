"""36 epochs, which the paper does not have: its steps at the same shares of the schedule."""

_base_ = ['../co_detr/co-deformable-detr_r50_8xb2-36e_coco.py', '../_base_/models/brs_detr.py']

model = _base_.brs_detr_published
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=_base_.max_epochs, by_epoch=True, milestones=[30, 33], gamma=0.2)
]
