_base_ = '../bccd/dino_efficientnet-lite0_focal_1xb4-12e_bccd.py'

# The stock loss in the ranking head, and the initial bias of a ranking loss. Matching reads the logits as they are.
model = dict(
    bbox_head=dict(
        type='RankBasedDINOHead',
        classifier_prior=0.5,
        score_prior=0.5,
        loss_cls=dict(
            _delete_=True,
            type='PointwiseLoss',
            iou_targets=False,
            loss=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        ),
    )
)
