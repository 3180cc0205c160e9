_base_ = [
    '../_base_/models/dino_efficientnet-lite0.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/detr_adamw_12e.py',
    '../_base_/runtime_cpu.py',
]

model = dict(bbox_head=dict(num_classes=4))
train_dataloader = dict(batch_size=4)
