"""A CPU-sized Faster R-CNN: MMDetection's on the backbone of the CPU-sized ATSS, strides 8 to 64,
200 proposals, RoI features of 5x5."""

_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'

custom_imports = dict(imports=['bucketed_losses.mmdet'])

model = dict(
    data_preprocessor=dict(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0]),
    backbone=dict(_delete_=True, type='EfficientNetLite0', out_indices=(2, 3, 4), frozen_stages=1),
    neck=dict(in_channels=[40, 112, 320], out_channels=96, num_outs=4),
    rpn_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(
            _delete_=True,
            type='AnchorGenerator',
            octave_base_scale=2,
            scales_per_octave=2,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64],
        ),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(output_size=5), out_channels=96, featmap_strides=[8, 16, 32]),
        bbox_head=dict(in_channels=96, fc_out_channels=256, roi_feat_size=5),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=400, max_per_img=200), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=400, max_per_img=200)),
)
