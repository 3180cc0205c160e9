"""RetinaNet trained with a ranking loss."""

from __future__ import annotations

from mmdet.models.dense_heads import RetinaHead, RetinaSepBNHead
from mmdet.registry import MODELS

from ..recipes import Role, ranking_head
from ..rules import ANCHOR_HEAD
from .ranking_mixin import RankingDenseHeadMixin


@ranking_head(RetinaHead, role=Role.DENSE, rules=ANCHOR_HEAD)
@MODELS.register_module()
class RankBasedRetinaHead(RankingDenseHeadMixin, RetinaHead):
    """``RetinaHead`` trained with a ranking loss.

    All levels and images are ranked together. The target of a positive is the IoU of its box.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_bbox: Config of a loss on decoded boxes, e.g. ``GIoULoss``.
        kwargs: As for :class:`mmdet.models.RetinaHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    classifiers = ('retina_cls',)


@ranking_head(RetinaSepBNHead, role=Role.DENSE, rules=ANCHOR_HEAD)
@MODELS.register_module()
class RankBasedRetinaSepBNHead(RankingDenseHeadMixin, RetinaSepBNHead):
    """``RetinaSepBNHead`` trained with a ranking loss; arguments as for MMDetection's head."""

    classifiers = ('retina_cls',)
    own_init = True
