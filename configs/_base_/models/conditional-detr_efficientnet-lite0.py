"""A CPU-sized Conditional DETR on the backbone, neck and encoder of the CPU-sized DETR, as in MMDetection.

Its decoder encodes positions for 256 channels, so no other number is possible.
"""

_base_ = './detr_efficientnet-lite0.py'

attention = dict(_delete_=True, embed_dims=256, num_heads=8, attn_drop=0.1)

model = dict(
    type='ConditionalDETR',
    decoder=dict(
        layer_cfg=dict(
            self_attn_cfg=dict(attention, cross_attn=False),
            cross_attn_cfg=dict(attention, cross_attn=True),
        )
    ),
    bbox_head=dict(
        type='ConditionalDETRHead',
        loss_cls=dict(_delete_=True, type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        ),
    ),
)
