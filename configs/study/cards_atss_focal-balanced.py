"""Ablation on the cards: focal loss with BRS Loss's box weights and self-balancing, and without centerness."""

_base_ = '../cards/atss_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

model = dict(
    bbox_head=dict(
        type='RankBasedATSSHead',
        classifier_prior=0.01,
        loss_cls=dict(
            _delete_=True,
            type='PointwiseLoss',
            loss=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
            iou_targets=False,
            self_balancing=True,
        ),
    )
)
