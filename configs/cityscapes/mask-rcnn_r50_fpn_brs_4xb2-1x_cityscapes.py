_base_ = ['mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py', '../_base_/models/rank_based_rcnn.py']

custom_imports = dict(imports=['bucketed_losses.mmdet'])
custom_hooks = [dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))

model = _base_.rank_based_mask_rcnn

# MMDetection's schedule for a batch of 8, here 4 GPUs x 2 images, so that more than one image is ranked at a time.
train_dataloader = dict(batch_size=2, dataset=dict(dataset=dict(type='CheckedCityscapesDataset')))
auto_scale_lr = dict(base_batch_size=8)
