"""Label assignment distillation (LAD) trained with a ranking loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from mmdet.models.dense_heads import LADHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..recipes import Note, Part, Role, Rule, ranking_head
from ..rules import ANCHOR_HEAD
from .rank_based_paa_head import RankBasedPAAHead


def _teacher_stays() -> Rule:
    """A note on the teacher, whose scores decide what is positive."""

    def apply(part: Part) -> Iterator[Note]:
        teacher = f'{part.path.rpartition(".")[0]}.teacher_bbox_head'
        yield Note(
            f'{teacher} stays as it is and assigns objects by its own scores: they must be probabilities, '
            'as those of a PAA trained with focal loss are. For a teacher that was trained with a ranking loss, set '
            'its type to RankBasedLADHead and give it a ranking loss: it lowers its logits for the assignment'
        )

    return Rule((), apply)


@ranking_head(LADHead, role=Role.DENSE, rules=(*ANCHOR_HEAD, _teacher_stays()), unused=['loss_centerness'])
@MODELS.register_module()
class RankBasedLADHead(RankBasedPAAHead, LADHead):
    """``LADHead`` trained with a ranking loss, without its IoU branch: :class:`RankBasedPAAHead` assigned by a teacher.

    The teacher decides which anchors are positive. It may be a stock ``LADHead`` with the weights of a PAA trained with
    focal loss, whose scores are probabilities. It may also be a ``RankBasedLADHead`` with the weights of a
    :class:`RankBasedPAAHead`: it scores its candidates with shifted logits, as that head does. Without a teacher, the
    head assigns objects by its own scores.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        kwargs: As for :class:`RankBasedPAAHead`. A student reads neither ``loss_score`` nor ``score_prior``.
    """

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
        label_assignment_results: tuple | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.LADHead.loss_by_feat`, without IoUs.

        ``label_assignment_results`` is what the teacher's :meth:`get_label_assignment` returns, or None.
        """
        if label_assignment_results is None:
            return super().loss_by_feat(
                cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
            )
        labels, label_weights, bbox_targets, *_ = label_assignment_results
        predictions = self.predictions_of_images(cls_scores, bbox_preds, batch_img_metas)
        return self.assigned_losses(predictions, labels, label_weights, bbox_targets)

    def get_label_assignment(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> tuple:
        """The assignment of a teacher; arguments as for :meth:`loss_by_feat`.

        Returns:
            The tuple of :meth:`mmdet.models.LADHead.get_label_assignment`, so that a stock student can read it, too:
            labels ``(n,)``, label weights ``(n,)``, target boxes ``(n, 4)``, None for the box weights, which no
            student reads, indices ``(num_pos,)`` of the positives, their anchors ``(num_pos, 4)``, and ``num_pos``.
        """
        predictions = self.predictions_of_images(cls_scores, bbox_preds, batch_img_metas)
        labels, label_weights, bbox_targets = self.assign(
            predictions, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        positive = (labels < self.num_classes).nonzero().squeeze(1)
        anchors = torch.cat([torch.cat(image) for image in predictions.anchors])[positive]
        return labels, label_weights, bbox_targets, None, positive, anchors, len(positive)
