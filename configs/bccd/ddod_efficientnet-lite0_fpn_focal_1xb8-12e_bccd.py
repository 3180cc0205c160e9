_base_ = [
    '../_base_/models/ddod_efficientnet-lite0_fpn.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_cpu.py',
]

model = dict(bbox_head=dict(num_classes=3))
