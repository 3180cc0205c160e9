_base_ = ['mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py', '../_base_/models/rank_based_rcnn.py']

custom_imports = dict(imports=['bucketed_losses.mmdet'])
custom_hooks = [dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))

model = _base_.rank_based_mask_rcnn

# The published schedule, which is not MMDetection's: 4 GPUs x 4 images, 12 epochs, learning rate 0.012, one step after
# epoch 8. The AP of this row is that of boxes (configs/README.md).
train_dataloader = dict(batch_size=4, num_workers=4, dataset=dict(dataset=dict(type='CheckedCityscapesDataset')))
optim_wrapper = dict(optimizer=dict(lr=0.012))
train_cfg = dict(max_epochs=12)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=16)
