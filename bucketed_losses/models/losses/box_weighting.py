"""How a box loss is weighted beside a ranking loss, in dense and in R-CNN heads alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def score_weighted_box_loss(loss_bbox: nn.Module, boxes: Tensor, target_boxes: Tensor, class_logits: Tensor) -> Tensor:
    """Mean box loss over positives, each weighted by its own highest class probability, detached.

    Args:
        loss_bbox: A loss on decoded boxes with MMDetection's interface, e.g. ``GIoULoss``.
        boxes: ``(num_pos, 4)`` decoded predictions, x1 y1 x2 y2 in pixels.
        target_boxes: ``(num_pos, 4)`` their ground truth.
        class_logits: ``(num_pos, num_classes)`` of the same predictions.

    Returns:
        A scalar; 0, connected to ``boxes``, if there are none.
    """
    if len(boxes) == 0:
        return boxes.sum() * 0
    weights = class_logits.detach().sigmoid().amax(dim=1)
    return loss_bbox(boxes, target_boxes, weight=weights, avg_factor=weights.sum())


def self_balance(loss: Tensor, ranking_losses: dict[str, Tensor]) -> Tensor:
    """``loss`` scaled to the value of the ranking losses: ``loss * (L_rank + L_sort).detach() / loss.detach()``.

    This is RS Loss's task balancing: it leaves no weight to tune, and a ``loss_weight`` of the box loss cancels.
    """
    total = torch.stack(list(ranking_losses.values())).sum().detach()
    return loss * (total / loss.detach().clamp(min=torch.finfo(loss.dtype).eps))
