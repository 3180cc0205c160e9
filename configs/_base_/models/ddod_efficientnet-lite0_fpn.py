"""A CPU-sized DDOD on the backbone and neck of the CPU-sized ATSS, without the coarsest level.

MMCV refuses deformable convolutions of maps smaller than their kernels, as that level has here: 2x3 cells.
"""

_base_ = './atss_efficientnet-lite0_fpn.py'

model = dict(
    type='DDOD',
    # Deformable convolutions want contiguous features.
    backbone=dict(contiguous_outputs=True),
    neck=dict(num_outs=4),
    bbox_head=dict(
        _delete_=True,
        type='DDODHead',
        num_classes=80,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_iou=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=dict(
        _delete_=True,
        # Of the classification; boxes have an assigner of their own.
        assigner=dict(type='ATSSAssigner', topk=9, alpha=0.8),
        reg_assigner=dict(type='ATSSAssigner', topk=9, alpha=0.5),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
)
