"""The published R-101 setting: DCNv2 in the last three stages."""

_base_ = './faster-rcnn_r101_fpn_brs_4xb4-ms-480-960-3x_coco.py'

model = dict(
    backbone=dict(
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    )
)
