"""What a ranking loss changes in MMDetection's detectors with queries, besides the type of the head.

A config that inherits this file and a stock config sets ``loss_cls=_base_.rank_based_loss`` of the head and
``train_cfg=_base_.rank_based_matching``.
"""

rank_based_loss = dict(_delete_=True, type='BucketedRSLoss', loss_weight=2.0)
rank_based_matching = dict(
    assigner=dict(
        match_costs=[
            dict(type='FocalLossCost', weight=4.0),
            dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
            dict(type='IoUCost', iou_mode='giou', weight=2.0),
        ]
    )
)
