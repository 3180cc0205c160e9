_base_ = ['../bccd/deformable-detr_efficientnet-lite0_focal_1xb4-12e_bccd.py', '../_base_/models/rivals.py']

# IoUs as targets; matching, the other losses and all weights are those of the stock config.
model = dict(
    bbox_head=dict(
        type='RankBasedDeformableDETRHead',
        classifier_prior=0.01,
        loss_cls=dict(_base_.rival_ia_bce, loss=dict(_base_.rival_ia_bce.loss, loss_weight=2.0)),
    )
)
