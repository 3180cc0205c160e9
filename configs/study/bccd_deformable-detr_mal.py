_base_ = '../bccd/deformable-detr_efficientnet-lite0_focal_1xb4-12e_bccd.py'

# IoUs as targets; matching, the other losses and all weights are those of the base config.
model = dict(
    bbox_head=dict(
        type='RankBasedDeformableDETRHead',
        classifier_prior=0.01,
        loss_cls=dict(
            _delete_=True,
            type='PointwiseLoss',
            loss=dict(type='MatchabilityAwareLoss', gamma=1.5, loss_weight=2.0),
        ),
    )
)
