"""A CPU-sized FoveaBox on the backbone and neck of the CPU-sized ATSS."""

_base_ = './atss_efficientnet-lite0_fpn.py'

model = dict(
    type='FOVEA',
    # FoveaBox's head has no norms of its own.
    neck=dict(add_extra_convs='on_input', norm_cfg=dict(type='GN', num_groups=32)),
    bbox_head=dict(
        _delete_=True,
        type='FoveaHead',
        num_classes=80,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        strides=[8, 16, 32, 64, 128],
        base_edge_list=[16, 32, 64, 128, 256],
        scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)),
        sigma=0.4,
        with_deform=False,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=1.5, alpha=0.4, loss_weight=1.0),
        loss_bbox=dict(type='SmoothL1Loss', beta=0.11, loss_weight=1.0),
    ),
    train_cfg=dict(_delete_=True),
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
)
