"""SSD trained with a ranking loss."""

from __future__ import annotations

from typing import Any

from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS

from ..recipes import Role, ranking_head
from ..rules import ANCHOR_HEAD, without_effect, without_hard_negatives
from .ranking_mixin import RankingDenseHeadMixin


class SigmoidSSDHead(SSDHead):
    """``SSDHead`` with a sigmoid per class instead of a softmax, and with losses from its config.

    Args:
        loss_cls, loss_bbox: Configs of its losses. ``SSDHead`` has a cross-entropy with hard negatives and a smooth L1.
        kwargs: As for :class:`mmdet.models.SSDHead`.
    """

    def __init__(self, *args: Any, loss_cls: dict, loss_bbox: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.use_sigmoid_cls = True
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox or dict(type='GIoULoss', loss_weight=2.0))

    def _init_layers(self) -> None:
        self.cls_out_channels = self.num_classes  # SSDHead has one more, for background
        super()._init_layers()


SSD_RULES = (
    *ANCHOR_HEAD,
    without_hard_negatives(),
    without_effect(smoothl1_beta='the box loss is on decoded boxes'),
)
"""Rules of SSD's heads."""


@ranking_head(SSDHead, role=Role.DENSE, rules=SSD_RULES)
@MODELS.register_module()
class RankBasedSSDHead(RankingDenseHeadMixin, SigmoidSSDHead):
    """``SSDHead`` trained with a ranking loss.

    All levels and images are ranked together, without hard negative mining: the settings ``neg_pos_ratio`` and
    ``smoothl1_beta`` of ``train_cfg`` have no effect. Each class has a sigmoid, and there is no background class. The
    target of a positive is the IoU of its box.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_bbox: Config of a loss on decoded boxes; ``GIoULoss`` by default.
        kwargs: As for :class:`mmdet.models.SSDHead`. Biases start at 0.
    """

    default_init = dict(type='Xavier', layer='Conv2d', distribution='uniform', bias=0)

    @property
    def classifiers(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f'cls_convs.{level}.{len(layers) - 1}' for level, layers in enumerate(self.cls_convs))
