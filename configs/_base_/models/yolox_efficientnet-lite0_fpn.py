"""A CPU-sized YOLOX: the backbone of the CPU-sized ATSS, an FPN of strides 8 to 32 and YOLOX's head, 96 channels.

No mosaic, no mixup and no change of the image size: images are those of the other CPU-sized detectors.
"""

_base_ = './atss_efficientnet-lite0_fpn.py'

model = dict(
    type='YOLOX',
    neck=dict(_delete_=True, type='FPN', in_channels=[40, 112, 320], out_channels=96, num_outs=3),
    bbox_head=dict(
        _delete_=True,
        type='YOLOXHead',
        num_classes=80,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        strides=(8, 16, 32),
        use_depthwise=False,
        norm_cfg=dict(type='BN', momentum=0.03, eps=0.001),
        act_cfg=dict(type='Swish'),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', mode='square', eps=1e-16, reduction='sum', loss_weight=5.0),
        loss_obj=dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', loss_weight=1.0),
        loss_l1=dict(type='L1Loss', reduction='sum', loss_weight=1.0),
    ),
    train_cfg=dict(_delete_=True, assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(_delete_=True, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
)
