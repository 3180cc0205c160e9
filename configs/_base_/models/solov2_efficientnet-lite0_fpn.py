"""A CPU-sized SOLOv2 on the backbone of the CPU-sized ATSS: strides 4 to 64, 96 channels, two stacked convs.

The ranges of sizes are a quarter of MMDetection's, as images of 192 pixels are of its 800.
"""

_base_ = './atss_efficientnet-lite0_fpn.py'

model = dict(
    type='SOLOv2',
    data_preprocessor=dict(pad_mask=True),
    backbone=dict(out_indices=(1, 2, 3, 4)),
    neck=dict(_delete_=True, type='FPN', in_channels=[24, 40, 112, 320], out_channels=96, num_outs=5),
    bbox_head=None,
    mask_head=dict(
        type='SOLOV2Head',
        num_classes=80,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        strides=[8, 8, 16, 32, 32],
        scale_ranges=((1, 24), (12, 48), (24, 96), (48, 192), (96, 512)),
        pos_scale=0.2,
        num_grids=[40, 36, 24, 16, 12],
        cls_down_index=0,
        mask_feature_head=dict(
            feat_channels=96,
            start_level=0,
            end_level=3,
            out_channels=96,
            mask_stride=4,
            norm_cfg=dict(type='GN', num_groups=32, requires_grad=True),
        ),
        loss_mask=dict(type='DiceLoss', use_sigmoid=True, loss_weight=3.0),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
    ),
    train_cfg=None,
    test_cfg=dict(
        _delete_=True,
        nms_pre=500,
        score_thr=0.1,
        mask_thr=0.5,
        filter_thr=0.05,
        kernel='gaussian',
        sigma=2.0,
        max_per_img=100,
    ),
)
