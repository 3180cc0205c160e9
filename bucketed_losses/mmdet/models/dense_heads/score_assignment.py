"""Mixins for heads that assign objects by their own scores.

Such assigners read scores as probabilities: costs are cross-entropies, or powers of scores. Ranking logits have no such
meaning. A common shift does not change the ranking loss, and they start at 0. They are therefore shifted for the
assigner, so that an initial logit has the prior probability that a detector with focal loss starts from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmdet.registry import MODELS
from mmdet.structures.bbox import distance2bbox
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from .ranking_mixin import RankingDenseHeadMixin, flatten_maps, flatten_targets

if TYPE_CHECKING:
    from ..classifiers import ClassifierMixin as _Host
else:
    _Host = object


class ScorePriorMixin(_Host):
    """A mixin for ranking heads whose assigner reads scores; it comes before :class:`RankingHeadMixin`.

    Args:
        score_prior: The probability that an initial logit has in the assigner; in (0, 1). With a ``classifier_prior``
            of the same value, logits are not shifted; in YOLOX, with one of its square. None never shifts them.
        args, kwargs: As for the head.

    Attributes:
        score_shift: What the head adds to logits before the assigner reads them.

    Raises:
        ValueError: ``score_prior`` is not in (0, 1).
    """

    def __init__(self, *args: Any, score_prior: float | None = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.score_shift = 0.0 if score_prior is None else self.shift_to_prior(score_prior)


class CandidateScoreMixin(ScorePriorMixin):
    """A mixin for ranking heads whose assigner compares candidates by their classification losses.

    A ranking loss has no value for a single prediction. ``loss_score`` takes its place; it has no gradient here.

    Args:
        loss_score: Config of the classification loss of a candidate; None for focal loss.
        args, kwargs: As for :class:`ScorePriorMixin`.
    """

    def __init__(self, *args: Any, loss_score: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_score = MODELS.build(
            loss_score or dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
        )


class AssignedPredictions(NamedTuple):
    """Predictions of all levels and images, in the order of :func:`flatten_maps`, with their targets.

    Attributes:
        logits: ``(n, num_classes)``.
        boxes: ``(n, 4)`` decoded boxes.
        labels: ``(n,)``, ``num_classes`` for background.
        label_weights: ``(n,)``, 0 for ignored predictions.
        bbox_targets: ``(n, 4)`` ground-truth boxes of the positives.
        metrics: ``(n,)`` metrics of the assigner.
        level_sizes: The number of predictions of one image on each level.
        samples: The sampling result of each image, if ``get_targets`` returns them.
    """

    logits: Tensor
    boxes: Tensor
    labels: Tensor
    label_weights: Tensor
    bbox_targets: Tensor
    metrics: Tensor
    level_sizes: list[int]
    samples: list


class RankingDecodedHeadMixin(ScorePriorMixin, RankingDenseHeadMixin):
    """A mixin for heads whose ``get_targets`` reads the scores and the decoded boxes of each image.

    Raises:
        ValueError: As :class:`RankingDenseHeadMixin` and :class:`ScorePriorMixin`.
    """

    assigned_by_boxes = True

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.AnchorHead.loss_by_feat`."""
        assigned = self.assign(cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
        return self.assigned_losses(assigned, len(batch_img_metas))

    def assign(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> AssignedPredictions:
        """Decode the predictions and assign them; arguments as for :meth:`loss_by_feat`."""
        num_images = len(batch_img_metas)
        featmap_sizes = [level.shape[-2:] for level in cls_scores]
        priors, valid_flags = self.get_anchors(featmap_sizes, batch_img_metas, device=cls_scores[0].device)
        logits = [flatten_maps([level], self.cls_out_channels) for level in cls_scores]
        boxes = [
            self.decode_level(level.repeat(num_images, 1), flatten_maps([predictions], 4), stride[0])
            for level, predictions, stride in zip(priors[0], bbox_preds, self.prior_generator.strides, strict=True)
        ]
        scores, detached_boxes = (
            torch.cat([level.detach().reshape(num_images, -1, level.size(1)) for level in levels], dim=1)
            for levels in (logits, boxes)
        )
        targets = self.get_targets(
            self.assigner_scores(scores + self.score_shift),
            detached_boxes,
            priors,
            valid_flags,
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore,
        )
        _, labels, label_weights, bbox_targets, metrics = targets[:5]
        return AssignedPredictions(
            torch.cat(logits),
            torch.cat(boxes),
            flatten_targets(labels),
            flatten_targets(label_weights),
            flatten_targets(bbox_targets),
            flatten_targets(metrics),
            [level.size(1) for level in metrics],
            targets[5] if len(targets) > 5 else [],
        )

    def assigned_losses(self, assigned: AssignedPredictions, num_images: int) -> dict[str, Tensor]:
        """:meth:`ranking_losses` of assigned predictions."""
        alignment = self.alignment(assigned.metrics)
        return self.ranking_losses(
            assigned.logits,
            assigned.boxes,
            assigned.boxes,
            assigned.labels,
            assigned.label_weights,
            assigned.bbox_targets,
            self.image_rows(assigned.level_sizes, num_images, assigned.labels.device),
            quality=alignment,
            box_weights=alignment,
        )

    def decode_level(self, priors: Tensor, predictions: Tensor, stride: int) -> Tensor:
        """Boxes ``(n, 4)`` in pixels of the predictions ``(n, 4)`` of a level: here, of distances in pixels."""
        return distance2bbox(priors, predictions)

    def assigner_scores(self, logits: Tensor) -> Tensor:
        """The scores that ``get_targets`` reads, from shifted logits ``(num_images, n, num_classes)``."""
        return logits

    def alignment(self, metrics: Tensor) -> Tensor | None:
        """The targets and box weights of the positives, from the assigner's metrics ``(n,)``; None for the default."""
        return None

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        """The predictions unchanged: they were decoded for the assignment."""
        return predictions
