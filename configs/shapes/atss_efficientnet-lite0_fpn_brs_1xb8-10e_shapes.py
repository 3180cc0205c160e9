_base_ = [
    '../_base_/models/atss_efficientnet-lite0_fpn.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_cpu.py',
]

model = dict(
    bbox_head=dict(
        type='RankBasedATSSHead',
        num_classes=4,
        loss_cls=dict(_delete_=True, type='BucketedRSLoss'),
    )
)

train_cfg = dict(max_epochs=10, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
]
