"""The published R-101 setting: DCNv2 with 4 deformable groups in the last three stages. MMDetection has 1 group."""

_base_ = './faster-rcnn_r101_fpn_brs_4xb4-ms-480-960-3x_coco.py'

model = dict(
    backbone=dict(
        dcn=dict(type='DCNv2', deform_groups=4, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    )
)
