"""The weighting of a box loss that is trained together with a ranking loss, for dense heads and R-CNN heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import reduce_mean
from torch import Tensor, nn

if TYPE_CHECKING:
    from .ranking_losses import ImageRows, RankingLoss


def ranking_and_box_losses(
    loss_cls: RankingLoss,
    loss_bbox: nn.Module,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    positive: Tensor,
    boxes: Tensor,
    target_boxes: Tensor,
    images: ImageRows | None = None,
    other_box_losses: Mapping[str, Tensor] | None = None,
    quality: Tensor | None = None,
    box_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of a head over ``n`` predictions that are ranked together, ``num_pos`` of them positive.

    The target of a positive is the IoU of its decoded box, detached, or its ``quality``. The box loss is weighted by
    :func:`score_weighted_box_loss` and, if ``self_balancing`` of the ranking loss is True, scaled as by
    :func:`self_balance`.

    Args:
        loss_cls: Ranking loss.
        loss_bbox: A loss on decoded boxes with MMDetection's interface, e.g. ``GIoULoss``.
        logits: ``(n, num_classes)``.
        labels: ``(n,)`` class indices, ``num_classes`` for background.
        weights: ``(n,)``, 0 for ignored predictions.
        positive: ``(num_pos,)`` indices of the positives, without ignored ones.
        boxes: ``(num_pos, 4)`` their decoded boxes, x1 y1 x2 y2 in pixels.
        target_boxes: ``(num_pos, 4)`` their ground-truth boxes.
        images: The images of the predictions, for a loss that ranks each image separately.
        other_box_losses: Further losses of the same boxes by log name, e.g. Distribution Focal Loss. The sum of all box
            losses is balanced, so that their ratios do not change.
        quality: ``(num_pos,)`` targets in [0, 1] of the positives; None for the IoUs of their boxes.
        box_weights: ``(num_pos,)`` weights of the box losses; None for the scores.

    Returns:
        ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox`` and the other box losses. If there is no positive, all
        are 0 and connected to the predictions, except with DR Loss or a memory.
    """
    positives = PositiveBoxes(
        loss_bbox, boxes, target_boxes, logits[positive], other_box_losses or {}, quality, box_weights
    )
    return loss_cls.losses_with_boxes(logits, labels, weights, positive, positives, images)


@dataclass(frozen=True)
class PositiveBoxes:
    """The boxes of the ``num_pos`` positives of a batch, and the losses of these boxes.

    Attributes:
        loss_bbox: A loss on decoded boxes with MMDetection's interface, e.g. ``GIoULoss``.
        boxes: ``(num_pos, 4)`` decoded boxes, x1 y1 x2 y2 in pixels.
        targets: ``(num_pos, 4)`` their ground-truth boxes.
        logits: ``(num_pos, num_classes)`` class logits of the same predictions.
        other_losses: Further losses of the same boxes by log name, already weighted by scores.
        quality: ``(num_pos,)`` targets in [0, 1] that replace the IoUs, or None.
        weights: ``(num_pos,)`` weights of ``loss_bbox`` that replace the scores, or None.
    """

    loss_bbox: nn.Module
    boxes: Tensor
    targets: Tensor
    logits: Tensor
    other_losses: Mapping[str, Tensor] = field(default_factory=dict)
    quality: Tensor | None = None
    weights: Tensor | None = None

    def rank_targets(self) -> Tensor:
        """``(num_pos,)`` targets of the positives: ``quality``, or the IoUs with their ground truth; detached."""
        if self.quality is not None:
            return self.quality.detach()
        return bbox_overlaps(self.boxes.detach(), self.targets, is_aligned=True)

    def errors(self) -> Tensor:
        """``(num_pos,)`` values of ``loss_bbox``, without its ``loss_weight``.

        Raises:
            ValueError: The ``loss_weight`` is 0.
        """
        if len(self.boxes) == 0:
            # If there are no boxes, MMDetection's losses are not connected to the predictions.
            losses = self.boxes.sum(dim=1) * 0
        else:
            losses = self.loss_bbox(self.boxes, self.targets, reduction_override='none')
        return without_weight(losses, cast(float, self.loss_bbox.loss_weight))

    def weighted_losses(self, shared: bool, equally: bool) -> dict[str, Tensor]:
        """``loss_bbox`` by :func:`score_weighted_box_loss`, and the other losses."""
        loss = score_weighted_box_loss(
            self.loss_bbox, self.boxes, self.targets, self.logits, shared, equally, self.weights
        )
        return {'loss_bbox': loss, **self.other_losses}


@dataclass(frozen=True)
class SeparateBoxes(PositiveBoxes):
    """The boxes of the ranked positives, which give the targets; the box loss is that of other boxes.

    aLRP Loss computes its box loss at the ranked positives.

    Attributes:
        regressed: The boxes of the box loss.
    """

    regressed: PositiveBoxes = field(kw_only=True)

    def weighted_losses(self, shared: bool, equally: bool) -> dict[str, Tensor]:
        """The losses of the other boxes."""
        return self.regressed.weighted_losses(shared, equally)


def without_weight(losses: Tensor, loss_weight: float) -> Tensor:
    """Values of a loss of boxes or masks, without its ``loss_weight``, which is a factor in them.

    Raises:
        ValueError: The weight is 0.
    """
    if loss_weight == 0:
        raise ValueError(
            f'loss_weight of the loss of boxes or masks must not be 0, got {loss_weight}: a ranking loss that '
            'uses their errors, such as aLRPLoss, divides by it; write 1'
        )
    return losses / loss_weight


def score_weighted_box_loss(
    loss_bbox: nn.Module,
    boxes: Tensor,
    target_boxes: Tensor,
    class_logits: Tensor,
    shared: bool = False,
    equally: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean box loss over positives, each weighted by its own :func:`highest_probability`.

    Args:
        loss_bbox: A loss on decoded boxes with MMDetection's interface, e.g. ``GIoULoss``.
        boxes: ``(num_pos, 4)`` decoded boxes, x1 y1 x2 y2 in pixels.
        target_boxes: ``(num_pos, 4)`` their ground-truth boxes.
        class_logits: ``(num_pos, num_classes)`` class logits of the same predictions.
        shared: Whether the positives of all processes form one batch. The loss of this batch is then the mean of the
            returned values over processes. This takes one collective.
        equally: Give all positives the same weight instead.
        weights: ``(num_pos,)`` weights that replace the scores.

    Returns:
        A scalar; 0, connected to ``boxes``, if there are none.
    """
    weights, total = score_weights(class_logits, shared, equally, weights)
    if len(boxes) == 0:
        return boxes.sum() * 0
    # MMDetection's losses read the weights that they are given on the host, which waits for an accelerator.
    losses = loss_bbox(boxes, target_boxes, reduction_override='none')
    return weighted_mean(losses, weights, total)


def score_weights(
    class_logits: Tensor, shared: bool, equally: bool = False, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The :func:`highest_probability` of every positive, and the sum of these weights, the divisor of a weighted mean.

    With ``shared`` the sum is averaged over processes, by one collective. ``weights`` replace the probabilities. With
    ``equally`` all weights are 1.
    """
    weights = box_weights(class_logits, equally, weights)
    return weights, mean_over_processes(weights.sum(), shared)


def box_weights(class_logits: Tensor, equally: bool, weights: Tensor | None = None) -> Tensor:
    """``(n,)`` the :func:`highest_probability` of every positive, or ``weights`` in its place; 1 with ``equally``."""
    weights = highest_probability(class_logits) if weights is None else at_least_float32(weights.detach())
    return torch.ones_like(weights) if equally else weights


def mean_by_score(losses: Tensor, scores: Tensor, shared: bool) -> Tensor:
    """The mean of losses of positives, weighted by their scores.

    Args:
        losses: ``(num_pos,)``.
        scores: ``(num_pos,)`` weights; 0 for positives that do not count.
        shared: Whether the positives of all processes form one batch; this takes one collective.

    Returns:
        A scalar; 0, connected to ``losses``, if there are no positives.
    """
    return weighted_mean(losses, scores, mean_over_processes(scores.sum(), shared))


def weighted_mean(losses: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """``sum losses * weights / total``, where ``total`` is the sum of the weights, or 0 if it is 0."""
    return (losses * weights).sum() / (total + torch.finfo(torch.float32).eps)  # as MMDetection divides


def highest_probability(class_logits: Tensor) -> Tensor:
    """``(n,)`` highest class probabilities of ``(n, num_classes)`` logits: the weights of box losses.

    They are detached and at least float32.
    """
    return at_least_float32(class_logits.detach()).sigmoid().amax(dim=1)


def self_balance(loss: Tensor, ranking_losses: Iterable[Tensor], shared: bool = False) -> Tensor:
    """``loss`` scaled to the value of the ranking losses: ``loss * (L_rank + L_sort).detach() / loss.detach()``.

    This is RS Loss's task balancing: there is no weight to tune, and a ``loss_weight`` of the box loss cancels.

    Args:
        loss: A scalar.
        ranking_losses: Scalars.
        shared: Whether all processes share one loss, the mean of ``loss`` over processes. This mean is then the
            divisor; it takes one collective.
    """
    return loss * balance_factor(loss, ranking_losses, shared)


def balance_factor(loss: Tensor, ranking_losses: Iterable[Tensor], shared: bool = False) -> Tensor:
    """The detached factor of :func:`self_balance`; arguments as there.

    ``(n,)`` ranking losses of ``n`` sets give a factor for each entry of a loss ``(..., n)``.
    """
    total = torch.stack(list(ranking_losses)).sum(0).detach()
    size = mean_over_processes(loss.detach(), shared)
    return total / size.clamp(min=torch.finfo(size.dtype).eps)


def mean_over_processes(value: Tensor, shared: bool = True) -> Tensor:
    """The mean of a value over all processes, by one collective; it is at least float32.

    All values that heads exchange between processes go through this function. Under autocast the dtype of a value may
    depend on what a process has seen, for example on whether there are objects, and a collective needs the same dtype
    on all processes.

    Args:
        value: A tensor of any floating-point dtype, of the same shape on all processes.
        shared: If False, return the value of this process; no collective.
    """
    value = at_least_float32(value)
    return reduce_mean(value) if shared else value


def at_least_float32(x: Tensor) -> Tensor:
    """Convert to float32, except for float64: losses are computed in full precision under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def nan_if_not_finite(losses: Mapping[str, Tensor], predictions: Tensor) -> dict[str, Tensor]:
    """The losses, or NaN in place of each if a prediction is not finite.

    A head calls this if predictions that are not finite can leave its losses finite: an assigner that reads them finds
    no positives, or they stand for a box without an area.

    Args:
        losses: Scalars by log name.
        predictions: Any shape, for example of deltas ``(n, 4)``.
    """
    mark = (predictions.detach() * 0).sum()
    return {name: value + mark for name, value in losses.items()}


def without_bfloat16(x: Tensor) -> Tensor:
    """Convert bfloat16 to float32: MMCV's RoIAlign and deformable convolutions support float16, but not bfloat16."""
    return x.float() if x.dtype == torch.bfloat16 else x


def maps_without_bfloat16(x: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """:func:`without_bfloat16` of each level of feature maps."""
    return tuple(without_bfloat16(level) for level in x)
