_base_ = '../bccd/dino_efficientnet-lite0_focal_1xb4-12e_bccd.py'

# IoUs as targets; matching, the other losses and all weights are those of the base config.
model = dict(
    bbox_head=dict(
        type='RankBasedDINOHead',
        classifier_prior=0.01,
        loss_cls=dict(
            _delete_=True,
            type='PointwiseLoss',
            loss=dict(type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0),
        ),
    )
)
