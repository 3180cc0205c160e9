"""What a ranking loss changes in the CPU-sized Sparse R-CNN."""

_base_ = './sparse-rcnn_efficientnet-lite0_fpn.py'

model = dict(
    roi_head=dict(
        type='RankBasedSparseRoIHead',
        bbox_head=[
            dict(head, type='RankBasedDIIHead', loss_cls=dict(type='BucketedRSLoss', loss_weight=2.0))
            for head in _base_.model.roi_head.bbox_head
        ],
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                stage,
                assigner=dict(
                    stage.assigner,
                    match_costs=[dict(type='FocalLossCost', weight=4.0), *stage.assigner.match_costs[1:]],
                ),
            )
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
)
