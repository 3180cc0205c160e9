_base_ = ['../co_detr/co-deformable-detr_swin-l_8xb2-12e_coco.py', '../_base_/models/brs_detr.py']

# 8 GPUs with 2 images each, as in the paper's text and in the published config.
model = _base_.brs_detr_published
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=_base_.max_epochs, by_epoch=True, milestones=[10, 11], gamma=0.2)
]
