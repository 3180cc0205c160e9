_base_ = ['./dab-detr_efficientnet-lite0_focal_1xb4-12e_cards.py', '../_base_/models/rank_based_queries.py']

model = dict(
    bbox_head=dict(type='RankBasedDABDETRHead', loss_cls=_base_.rank_based_loss),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=4.0, eps=1e-8),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ]
        )
    ),
)
