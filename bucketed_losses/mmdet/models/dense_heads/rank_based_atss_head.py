"""ATSS trained with a ranking loss (RS-ATSS, BRS-ATSS, AP-ATSS)."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import Scale
from mmdet.models.dense_heads import ATSSHead
from mmdet.registry import MODELS
from torch import Tensor

from ..recipes import Role, ranking_head
from ..rules import ANCHOR_HEAD, three_anchor_scales
from .ranking_mixin import RankingDenseHeadMixin

ATSS_RULES = (*ANCHOR_HEAD, three_anchor_scales())


@ranking_head(ATSSHead, role=Role.DENSE, rules=ATSS_RULES, unused=['loss_centerness'])
@MODELS.register_module()
class RankBasedATSSHead(RankingDenseHeadMixin, ATSSHead):
    """``ATSSHead`` trained with a ranking loss, without centerness.

    All levels and images are ranked together. The target of a positive is the IoU of its box.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_centerness: Not used; accepted so that a config may inherit one written for ``ATSSHead``.
        kwargs: As for :class:`mmdet.models.ATSSHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    classifiers = ('atss_cls',)

    def __init__(self, *args: Any, loss_cls: dict, loss_centerness: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, loss_cls=loss_cls, **kwargs)
        del self.loss_centerness

    def _init_layers(self) -> None:
        super()._init_layers()
        del self.atss_centerness

    def forward_single(self, x: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
        """Class logits ``(N, num_priors * num_classes, H, W)`` and box deltas ``(N, num_priors * 4, H, W)``."""
        cls_feat = reg_feat = x
        for cls_conv in self.cls_convs:
            cls_feat = cls_conv(cls_feat)
        for reg_conv in self.reg_convs:
            reg_feat = reg_conv(reg_feat)
        return self.atss_cls(cls_feat), scale(self.atss_reg(reg_feat)).float()

    def level_targets(self, *args: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        _, labels, label_weights, bbox_targets, *_ = self.get_targets(*args)
        return labels, label_weights, bbox_targets
