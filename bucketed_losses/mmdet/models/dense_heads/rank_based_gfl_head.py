"""GFL trained with a ranking loss in place of Quality Focal Loss; it keeps the distributions of box sides."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import GFLHead
from mmdet.registry import MODELS
from torch import Tensor

from ..losses.box_weighting import score_weights
from ..recipes import Role, ranking_head
from ..rules import POINT_HEAD
from .ranking_mixin import RankingDenseHeadMixin


@ranking_head(GFLHead, role=Role.DENSE, rules=POINT_HEAD)
@MODELS.register_module()
class RankBasedGFLHead(RankingDenseHeadMixin, GFLHead):
    """``GFLHead`` trained with a ranking loss.

    All levels and images are ranked together. The target of a positive is the IoU of its box. The head keeps
    Distribution Focal Loss, which is weighted by scores as the box loss is, and balanced together with it.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        kwargs: As for :class:`mmdet.models.GFLHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    classifiers = ('gfl_cls',)

    @property
    def box_channels(self) -> int:  # type: ignore[override]
        return 4 * (self.reg_max + 1)

    def flat_priors(self, anchors: list[list[Tensor]]) -> Tensor:
        """``(n, 3)``: x, y of the anchors' centres and the stride of their level."""
        levels = [torch.cat(level) for level in zip(*anchors, strict=True)]
        centers = [self.anchor_center(level) for level in levels]
        strides = self.prior_generator.strides
        return torch.cat(
            [
                torch.cat([level, level.new_full((len(level), 1), stride[0])], dim=1)
                for level, stride in zip(centers, strides, strict=True)
            ]
        )

    def level_targets(self, *args: object) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        _, labels, label_weights, bbox_targets, *_ = self.get_targets(*args)
        return labels, label_weights, bbox_targets

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        """Boxes from distributions ``(n, 4 * (reg_max + 1))``: a side is the mean of its distribution, in strides."""
        distances = self.integral(predictions).reshape(-1, 4)
        return self.bbox_coder.decode(priors[:, :2], distances * priors[:, 2:])

    def other_box_losses(
        self, priors: Tensor, predictions: Tensor, targets: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """``loss_dfl``, Distribution Focal Loss of the four sides."""
        weights, total = score_weights(logits, self.loss_cls.shared, self.loss_cls.equal_box_weights)
        if len(priors) == 0:
            return {'loss_dfl': predictions.sum() * 0}
        centers, strides = priors[:, :2], priors[:, 2:]
        sides = self.bbox_coder.encode(centers / strides, targets / strides, self.reg_max).reshape(-1)
        distributions = predictions.reshape(-1, self.reg_max + 1)
        weight = weights[:, None].expand(-1, 4).reshape(-1)
        return {'loss_dfl': self.loss_dfl(distributions, sides, weight=weight, avg_factor=4 * total)}
