"""A CPU-sized YOLOF: the backbone of the CPU-sized ATSS, a dilated encoder and YOLOF's head, 96 channels.

The one level has a stride of 16 pixels, half of YOLOF's, and anchors from 16 pixels on: images are small.
"""

_base_ = './atss_efficientnet-lite0_fpn.py'

model = dict(
    type='YOLOF',
    backbone=dict(out_indices=(3,)),
    neck=dict(
        _delete_=True,
        type='DilatedEncoder',
        in_channels=112,
        out_channels=96,
        block_mid_channels=24,
        num_residual_blocks=4,
        block_dilations=[2, 4, 6, 8],
    ),
    bbox_head=dict(
        _delete_=True,
        type='YOLOFHead',
        num_classes=80,
        in_channels=96,
        num_cls_convs=2,
        num_reg_convs=2,
        reg_decoded_bbox=True,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales=[1, 2, 4, 8, 16], strides=[16]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder',
            target_means=[0.0] * 4,
            target_stds=[1.0] * 4,
            add_ctr_clamp=True,
            ctr_clamp=16,  # one stride, as in MMDetection
        ),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
    ),
    train_cfg=dict(
        _delete_=True,
        assigner=dict(type='UniformAssigner', pos_ignore_thr=0.15, neg_ignore_thr=0.7),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
)
