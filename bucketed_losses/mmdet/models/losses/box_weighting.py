"""How a box loss is weighted beside a ranking loss, in dense and in R-CNN heads alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import reduce_mean
from torch import Tensor, nn

from .alrp_loss import aLRPLoss
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
) -> dict[str, Tensor]:
    """The losses of a head over ``n`` predictions that are ranked together, ``num_pos`` of them positive.

    Each positive is labelled by the IoU of its decoded box, detached; the box loss is weighted by
    :func:`score_weighted_box_loss` and, if the ranking loss asks for it, scaled by :func:`self_balance`.

    Args:
        loss_cls: Ranking loss.
        loss_bbox: A loss on decoded boxes with MMDetection's interface, e.g. ``GIoULoss``.
        logits: ``(n, num_classes)``.
        labels: ``(n,)`` class indices, ``num_classes`` for background.
        weights: ``(n,)``, 0 for ignored predictions.
        positive: ``(num_pos,)`` indices of the positives, ignored ones left out.
        boxes: ``(num_pos, 4)`` their decoded predictions, x1 y1 x2 y2 in pixels.
        target_boxes: ``(num_pos, 4)`` their ground truth.
        images: The images of the predictions, for a loss that ranks each alone.
        other_box_losses: Further losses of the same boxes by log name, e.g. a distribution's; the sum of all box losses
            is what is balanced, so that they keep their proportions.

    Returns:
        ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox`` and the others; all 0 and connected if there is no
        positive.
    """
    if isinstance(loss_cls, aLRPLoss):
        # MMDetection's losses of no boxes at all are not connected to them.
        errors = boxes.sum(dim=1) * 0
        if len(boxes):
            errors = loss_bbox(boxes, target_boxes, reduction_override='none') / loss_bbox.loss_weight
        losses = loss_cls(logits, labels, weights, positive=positive, images=images, box_losses=errors)
        return {**losses, **(other_box_losses or {})}
    ious = boxes.new_zeros(len(logits))
    ious[positive] = bbox_overlaps(boxes.detach(), target_boxes, is_aligned=True)
    losses = loss_cls(logits, (labels, ious), weight=weights, positive=positive, images=images)
    box_losses = {
        'loss_bbox': score_weighted_box_loss(loss_bbox, boxes, target_boxes, logits[positive], loss_cls.shared),
        **(other_box_losses or {}),
    }
    if loss_cls.self_balancing:
        factor = balance_factor(torch.stack(list(box_losses.values())).sum(), losses.values(), loss_cls.shared)
        box_losses = {name: value * factor for name, value in box_losses.items()}
    return {**losses, **box_losses}


def score_weighted_box_loss(
    loss_bbox: nn.Module, boxes: Tensor, target_boxes: Tensor, class_logits: Tensor, shared: bool = False
) -> Tensor:
    """Mean box loss over positives, each weighted by its own :func:`highest_probability`.

    Args:
        loss_bbox: A loss on decoded boxes with MMDetection's interface, e.g. ``GIoULoss``.
        boxes: ``(num_pos, 4)`` decoded predictions, x1 y1 x2 y2 in pixels.
        target_boxes: ``(num_pos, 4)`` their ground truth.
        class_logits: ``(num_pos, num_classes)`` of the same predictions.
        shared: The positives of all processes are one batch: their mean over processes is its loss. One collective.

    Returns:
        A scalar; 0, connected to ``boxes``, if there are none.
    """
    weights, total = score_weights(class_logits, shared)
    if len(boxes) == 0:
        return boxes.sum() * 0
    return loss_bbox(boxes, target_boxes, weight=weights, avg_factor=total)


def score_weights(class_logits: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
    """The :func:`highest_probability` of every positive, and what a mean over positives divides by.

    With ``shared`` that is the mean over processes, one collective.
    """
    weights = highest_probability(class_logits)
    return weights, mean_over_processes(weights.sum(), shared)


def highest_probability(class_logits: Tensor) -> Tensor:
    """``(n,)`` highest class probabilities of ``(n, num_classes)`` logits: the weights of localisation.

    They are detached and at least float32.
    """
    return at_least_float32(class_logits.detach()).sigmoid().amax(dim=1)


def self_balance(loss: Tensor, ranking_losses: Iterable[Tensor], shared: bool = False) -> Tensor:
    """``loss`` scaled to the value of the ranking losses: ``loss * (L_rank + L_sort).detach() / loss.detach()``.

    This is RS Loss's task balancing: it leaves no weight to tune, and a ``loss_weight`` of the box loss cancels.

    Args:
        loss: A scalar.
        ranking_losses: Scalars.
        shared: ``loss`` is this process's share of one loss, the mean over processes; that one is divided by. One
            collective.
    """
    return loss * balance_factor(loss, ranking_losses, shared)


def balance_factor(loss: Tensor, ranking_losses: Iterable[Tensor], shared: bool = False) -> Tensor:
    """The detached factor of :func:`self_balance`; arguments as there."""
    total = torch.stack(list(ranking_losses)).sum().detach()
    size = mean_over_processes(loss.detach(), shared)
    return total / size.clamp(min=torch.finfo(size.dtype).eps)


def mean_over_processes(value: Tensor, shared: bool = True) -> Tensor:
    """The mean of a value over all processes, by one collective; it is at least float32.

    All values of the heads that processes exchange go through this function. Under autocast the dtype of a value may
    depend on what a process has seen, for example on whether there are objects, and a collective needs the same dtype
    on all processes.

    Args:
        value: A tensor of any floating-point dtype, of the same shape on all processes.
        shared: If False, return the value of this process; no collective.
    """
    value = at_least_float32(value)
    return reduce_mean(value) if shared else value


def at_least_float32(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32: losses are computed in full precision under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def without_bfloat16(x: Tensor) -> Tensor:
    """bfloat16 becomes float32: MMCV's NMS and RoIAlign know float16, but not bfloat16."""
    return x.float() if x.dtype == torch.bfloat16 else x


# MMDetection's losses on box deltas, or with a weight per coordinate: none of them can be weighted per box.
_PER_COORDINATE = ('L1Loss', 'SmoothL1Loss', 'BalancedL1Loss', 'MSELoss', 'BoundedIoULoss')


def check_head_losses(head: nn.Module) -> None:
    """Refuse a head whose ``loss_cls`` does not rank, or whose ``loss_bbox`` cannot be weighted per decoded box.

    Raises:
        ValueError: ``loss_cls`` is no ranking loss, or ``loss_bbox`` one of MMDetection's losses on single coordinates.
    """
    check_ranks(head, instead="MMDetection's own head")
    loss_bbox = type(head.loss_bbox).__name__
    if loss_bbox in _PER_COORDINATE:
        raise ValueError(
            f'{type(head).__name__}: loss_bbox must be a loss on decoded boxes such as GIoULoss, got {loss_bbox}; '
            "write loss_bbox=dict(_delete_=True, type='GIoULoss')"
        )


def check_ranks(head: nn.Module, instead: str) -> None:
    """Refuse a head whose ``loss_cls`` does not rank.

    Args:
        head: The head, with its losses.
        instead: What to use with another loss, for the message.

    Raises:
        ValueError: ``loss_cls`` is no ranking loss.
    """
    if not isinstance(head.loss_cls, RankingLoss):
        raise ValueError(
            f'{type(head).__name__}: loss_cls must be a ranking loss (APLoss, BucketedAPLoss, RSLoss, '
            f'BucketedRSLoss, aLRPLoss or DRLoss), got {type(head.loss_cls).__name__}; use {instead} with that loss'
        )


def prior_logit(head: nn.Module, score_prior: float) -> float:
    """The logit of ``score_prior``: what is added to ranking logits where something reads them as probabilities.

    Raises:
        ValueError: ``score_prior`` does not lie in (0, 1); the message names ``head``.
    """
    if not 0 < score_prior < 1:
        raise ValueError(f'{type(head).__name__}: score_prior must lie in (0, 1), got {score_prior}')
    return math.log(score_prior / (1 - score_prior))


def check_decodes_boxes(head: nn.Module, reg_decoded_bbox: bool) -> None:
    """Refuse ``reg_decoded_bbox=False``, before the head is built with it.

    Raises:
        ValueError: it is False.
    """
    if not reg_decoded_bbox:
        raise ValueError(
            f'{type(head).__name__}: reg_decoded_bbox must be True, got False; the labels of the positives are the '
            'IoUs of decoded boxes, and so is the box loss'
        )
