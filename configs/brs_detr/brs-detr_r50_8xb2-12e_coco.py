_base_ = ['../co_detr/co-deformable-detr_r50_8xb2-12e_coco.py', '../_base_/models/brs_detr.py']

# 8 GPUs with 2 images each, as in the paper's text; the published config has 4 images for each GPU. A loss ranks the
# images of one GPU together, so 4 GPUs with train_dataloader.batch_size=4 are not the same as 8 with 2.
model = _base_.brs_detr_published
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=_base_.max_epochs, by_epoch=True, milestones=[10, 11], gamma=0.2)
]
