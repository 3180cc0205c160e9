"""MMDetection's default runtime, and the same random numbers whether a run was resumed or not."""

_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(
        type='AtomicCheckpointHook', interval=1, max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'
    ),
)
custom_hooks = [dict(type='EpochSeedHook'), dict(type='NumClassCheckHook'), dict(type='InvalidLossHook')]
randomness = dict(seed=0)
