_base_ = ['mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py', '../_base_/models/rank_based_rcnn.py']

custom_imports = dict(imports=['bucketed_losses.mmdet'])
custom_hooks = [dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))

model = _base_.rank_based_mask_rcnn
# The published threshold on LVIS; MMDetection's 0.0001 is for softmax scores.
model['test_cfg'] = dict(rcnn=dict(score_thr=0.60))

# 4 GPUs x 4 images; the rest of the schedule (12 epochs, steps 8 and 11) is MMDetection's 1x.
train_dataloader = dict(batch_size=4, num_workers=4, dataset=dict(dataset=dict(type='CheckedLVISV1Dataset')))
optim_wrapper = dict(optimizer=dict(lr=0.012))
auto_scale_lr = dict(base_batch_size=16)
