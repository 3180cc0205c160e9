"""Localization distillation (LD) trained with a ranking loss."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import LDHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses.box_weighting import box_weights
from ..recipes import Role, ranking_head
from ..rules import POINT_HEAD
from .rank_based_gfl_head import RankBasedGFLHead


@ranking_head(LDHead, role=Role.DENSE, rules=POINT_HEAD)
@MODELS.register_module()
class RankBasedLDHead(RankBasedGFLHead, LDHead):
    """``LDHead`` trained with a ranking loss, as :class:`RankBasedGFLHead`; the teacher stays as it is.

    The distillation loss is weighted by scores and is a sum over the positives, as in ``LDHead``. It is balanced
    together with the box loss and Distribution Focal Loss.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        kwargs: As for :class:`mmdet.models.LDHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    @property
    def box_channels(self) -> int:  # type: ignore[override]
        return 2 * super().box_channels  # the teacher's distributions follow those of the student

    def loss_by_feat(  # type: ignore[override]
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        soft_targets: list[Tensor],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.LDHead.loss_by_feat`.

        Returns:
            The losses of :class:`RankBasedGFLHead` and ``loss_ld``.
        """
        both = [torch.cat(level, dim=1) for level in zip(bbox_preds, soft_targets, strict=True)]
        return super().loss_by_feat(cls_scores, both, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        """Boxes of the student's distributions, the first half of the predictions."""
        return super().decode(priors, predictions.chunk(2, dim=1)[0])

    def other_box_losses(
        self, priors: Tensor, predictions: Tensor, targets: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """``loss_dfl`` and ``loss_ld``."""
        student, teacher = predictions.chunk(2, dim=1)
        losses = super().other_box_losses(priors, student, targets, logits)
        if len(priors) == 0:
            return {**losses, 'loss_ld': student.sum() * 0}
        weights = box_weights(logits, self.loss_cls.equal_box_weights)
        distributions, soft = (part.reshape(-1, self.reg_max + 1) for part in (student, teacher.detach()))
        return {
            **losses,
            'loss_ld': self.loss_ld(distributions, soft, weight=weights.repeat_interleave(4), avg_factor=4.0),
        }
