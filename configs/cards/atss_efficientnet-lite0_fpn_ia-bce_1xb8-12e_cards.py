_base_ = './atss_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'

# IoUs as targets, without centerness. The box loss keeps ATSS's weight of 2 and is weighted by scores, as in GFL.
model = dict(
    bbox_head=dict(
        type='RankBasedATSSHead',
        classifier_prior=0.01,
        loss_cls=dict(
            _delete_=True,
            type='PointwiseLoss',
            loss=dict(type='IABCELoss', alpha=0.25, gamma=2.0),
        ),
    )
)
