_base_ = [
    '../_base_/models/sabl-cascade-rcnn_efficientnet-lite0_fpn_brs.py',
    '../_base_/datasets/cards_detection.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_cpu.py',
]

model = dict(roi_head=dict(bbox_head=[dict(head, num_classes=6) for head in _base_.model.roi_head.bbox_head]))
