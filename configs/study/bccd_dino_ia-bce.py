_base_ = ['../bccd/dino_efficientnet-lite0_focal_1xb4-12e_bccd.py', '../_base_/models/rivals.py']

# IoUs as targets; matching, the other losses and all weights are those of the stock config.
model = dict(
    bbox_head=dict(
        type='RankBasedDINOHead',
        classifier_prior=0.01,
        loss_cls=_base_.rival_ia_bce,
    )
)
