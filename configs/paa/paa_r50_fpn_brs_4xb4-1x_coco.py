_base_ = 'mmdet::paa/paa_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['bucketed_losses.mmdet'])
custom_hooks = [dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook'))

model = dict(
    bbox_head=dict(
        type='RankBasedPAAHead',
        anchor_generator=dict(octave_base_scale=4, scales_per_octave=3),
        loss_cls=dict(_delete_=True, type='BucketedRSLoss'),
        # The weight of the box loss in PAA's anchor scores, as published; MMDetection's PAA has 1.3.
        loss_bbox=dict(loss_weight=1.0),
        # The published classifiers start at this probability. The default of the head is 0.5, a bias of 0.
        classifier_prior=0.01,
    )
)

# 4 GPUs x 4 images; the rest of the schedule (12 epochs, steps 8 and 11) is MMDetection's 1x.
train_dataloader = dict(batch_size=4, num_workers=4, dataset=dict(type='CheckedCocoDataset'))
optim_wrapper = dict(optimizer=dict(lr=0.008))
auto_scale_lr = dict(base_batch_size=16)
