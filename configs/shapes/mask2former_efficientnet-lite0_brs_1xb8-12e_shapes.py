_base_ = './mask2former_efficientnet-lite0_ce_1xb8-12e_shapes.py'

model = dict(
    panoptic_head=dict(
        type='RankBasedMask2FormerHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss', loss_weight=2.0)
    ),
    panoptic_fusion_head=dict(type='RankBasedMaskFormerFusionHead'),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=4.0),
                dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0),
            ]
        )
    ),
)
