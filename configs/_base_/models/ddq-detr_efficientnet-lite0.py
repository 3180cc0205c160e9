"""A CPU-sized DDQ-DETR on the backbone, neck and transformer of the CPU-sized DINO, as in MMDetection."""

_base_ = './dino_efficientnet-lite0.py'

model = dict(
    type='DDQDETR',
    dense_topk_ratio=1.5,
    bbox_head=dict(type='DDQDETRHead'),
    dqs_cfg=dict(type='nms', iou_threshold=0.8),
)
