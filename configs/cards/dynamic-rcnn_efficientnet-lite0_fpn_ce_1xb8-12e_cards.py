_base_ = [
    '../_base_/models/dynamic-rcnn_efficientnet-lite0_fpn.py',
    '../_base_/datasets/cards_detection.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_cpu.py',
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))
