"""The settings that turn Co-DINO into BRS Co-DINO: those of BRS-DETR with DINO's head.

Inherit this and a Co-DINO config, and write ``model = _base_.brs_co_dino``, which is the result of a swap, or
``_base_.brs_co_dino_published`` for what the published code trains. The paper has no figures of this detector.
"""

_base_ = './brs_detr.py'

brs_co_dino = dict(_base_.brs_detr, bbox_head=dict(_base_.brs_detr['bbox_head'], type='RankBasedCoDINOHead'))

auxiliary_loss_of_co_dino = dict(_base_.auxiliary_loss_published, loss_weight=12.0)
brs_co_dino_published = dict(
    _base_.brs_detr_published,
    # The published head computes its losses without the weight of 2 in its config, and does not balance L1 and GIoU.
    bbox_head=dict(
        type='RankBasedCoDINOHead',
        loss_cls=dict(_base_.decoder_loss, loss_weight=1.0, self_balancing=False),
        classifier_prior=0.01,
    ),
    rpn_head=dict(_base_.brs_detr['rpn_head'], loss_cls=auxiliary_loss_of_co_dino),
    roi_heads=dict(
        _base_.brs_detr['roi_heads'],
        bbox_head=dict(_base_.brs_detr['roi_heads']['bbox_head'], loss_cls=auxiliary_loss_of_co_dino),
    ),
    dense_heads=dict(_base_.brs_detr['dense_heads'], loss_cls=auxiliary_loss_of_co_dino, classifier_prior=0.01),
)
