_base_ = [
    '../_base_/models/mask2former_efficientnet-lite0.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/detr_adamw_12e.py',
    '../_base_/runtime_cpu.py',
]

num_classes = 4
model = dict(
    panoptic_head=dict(num_things_classes=num_classes, loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])),
    panoptic_fusion_head=dict(num_things_classes=num_classes),
)
