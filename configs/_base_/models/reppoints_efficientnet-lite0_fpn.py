"""A CPU-sized RepPoints on the backbone and neck of the CPU-sized ATSS."""

_base_ = './atss_efficientnet-lite0_fpn.py'

model = dict(
    type='RepPointsDetector',
    # Deformable convolutions want contiguous features.
    backbone=dict(contiguous_outputs=True),
    # RepPoints' head has no norms of its own.
    neck=dict(add_extra_convs='on_input', norm_cfg=dict(type='GN', num_groups=32)),
    bbox_head=dict(
        _delete_=True,
        type='RepPointsHead',
        num_classes=80,
        in_channels=96,
        feat_channels=96,
        point_feat_channels=96,
        stacked_convs=2,
        num_points=9,
        gradient_mul=0.1,
        point_strides=[8, 16, 32, 64, 128],
        point_base_scale=4,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox_init=dict(type='SmoothL1Loss', beta=0.11, loss_weight=0.5),
        loss_bbox_refine=dict(type='SmoothL1Loss', beta=0.11, loss_weight=1.0),
        transform_method='moment',
    ),
    train_cfg=dict(
        _delete_=True,
        init=dict(
            assigner=dict(type='PointAssigner', scale=4, pos_num=1), allowed_border=-1, pos_weight=-1, debug=False
        ),
        refine=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.5)),
)
