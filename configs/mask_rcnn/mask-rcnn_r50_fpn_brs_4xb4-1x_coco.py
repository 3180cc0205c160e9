_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/models/rank_based_rcnn.py']

custom_imports = dict(imports=['bucketed_losses.mmdet'])
custom_hooks = [dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))

model = _base_.rank_based_mask_rcnn

# 4 GPUs x 4 images; the rest of the schedule (12 epochs, steps 8 and 11) is MMDetection's 1x.
train_dataloader = dict(batch_size=4, num_workers=4, dataset=dict(type='CheckedCocoDataset'))
optim_wrapper = dict(optimizer=dict(lr=0.012))
auto_scale_lr = dict(base_batch_size=16)
