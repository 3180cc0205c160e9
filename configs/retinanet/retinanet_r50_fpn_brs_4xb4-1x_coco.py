_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['bucketed_losses.mmdet'])
custom_hooks = [dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))

model = dict(
    bbox_head=dict(
        type='RankBasedRetinaHead',
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(_delete_=True, type='BucketedRSLoss'),
        loss_bbox=dict(_delete_=True, type='GIoULoss'),
    )
)

# 4 GPUs x 4 images; the rest of the schedule (12 epochs, steps 8 and 11) is MMDetection's 1x.
train_dataloader = dict(batch_size=4, num_workers=4, dataset=dict(type='CheckedCocoDataset'))
optim_wrapper = dict(optimizer=dict(lr=0.008))
auto_scale_lr = dict(base_batch_size=16)
