_base_ = [
    '../_base_/models/ddq-detr_efficientnet-lite0.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/detr_adamw_12e.py',
    '../_base_/runtime_cpu.py',
]

model = dict(
    bbox_head=dict(num_classes=4),
    test_cfg=dict(max_per_img=20),  # with 100, DDQDETRHead fails if an image has fewer scores of distinct queries
)
train_dataloader = dict(batch_size=4)
