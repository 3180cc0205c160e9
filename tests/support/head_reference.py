"""The losses of a head, slowly and from the paper: decode, IoU, loop over pairs, score weights, self-balance.

Nothing here shares code with the package or with MMDetection; assignment is the caller's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from reference import loop_bucketed_ranking, loop_rs_loss
from torch import Tensor

STDS = (0.1, 0.1, 0.2, 0.2)


class Prediction(NamedTuple):
    """One prediction of a detector: an anchor or an RoI with what the network says and what was assigned to it."""

    scores: Tensor  # (num_classes,) logits
    prior: Tensor  # (4,) x1 y1 x2 y2
    delta: Tensor  # (4,)
    label: int  # num_classes: background
    ignored: bool
    target: Tensor  # (4,), read for positives only


def giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised IoU loss and IoU of two boxes, in plain numbers of autograd."""
    width = torch.min(a[2], b[2]) - torch.max(a[0], b[0])
    height = torch.min(a[3], b[3]) - torch.max(a[1], b[1])
    overlap = width.clamp(min=0) * height.clamp(min=0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (torch.max(a[2], b[2]) - torch.min(a[0], b[0])) * (torch.max(a[3], b[3]) - torch.min(a[1], b[1]))
    return 1 - (overlap / union - (hull - union) / hull), overlap / union


def decode(prior: Tensor, delta: Tensor) -> Tensor:
    """Faster R-CNN's box coding."""
    w, h = prior[2] - prior[0], prior[3] - prior[1]
    cx = (prior[0] + prior[2]) / 2 + STDS[0] * delta[0] * w
    cy = (prior[1] + prior[3]) / 2 + STDS[1] * delta[1] * h
    w, h = w * (STDS[2] * delta[2]).exp(), h * (STDS[3] * delta[3]).exp()
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def slow_losses(name: str, predictions: list[Prediction], box_weight: float) -> tuple[dict[str, float], Tensor]:
    """Values by log name, and a total whose gradient is that of the losses (the Identity Update for the ranking)."""
    losses, total, loss_bbox = slow_parts(name, predictions, box_weight)
    if 'RS' in name:
        loss_bbox = loss_bbox * (sum(losses.values()) / loss_bbox.detach())
    losses['loss_bbox'] = float(loss_bbox.detach())
    return losses, total + loss_bbox


def slow_parts(name: str, predictions: list[Prediction], box_weight: float) -> tuple[dict[str, float], Tensor, Tensor]:
    """The ranking losses by log name, a total with their gradient, and the box loss before it is balanced."""
    logits, targets, boxes = [], [], []
    for p in predictions:
        num_classes = len(p.scores)
        iou = None
        if p.label < num_classes and not p.ignored:
            loss, iou = giou(decode(p.prior, p.delta), p.target)
            boxes.append((p.scores.detach().sigmoid().max(), loss))
        for c in range(num_classes):
            logits.append(p.scores[c])
            positive = c == p.label and iou is not None
            targets.append(-1.0 if p.ignored else max(float(iou.detach()), 1e-7) if positive else 0.0)
    losses, total = slow_ranking(name, logits, targets)
    return losses, total, box_weight * sum(w * loss for w, loss in boxes) / sum(w for w, _ in boxes)


def slow_ranking(name: str, logits: list[Tensor], targets: list[float]) -> tuple[dict[str, float], Tensor]:
    """The ranking losses of entries by log name, and a total whose gradient is the Identity Update.

    Args:
        name: Name of the loss.
        logits: A scalar for each entry.
        targets: IoU of a positive, 0 for a negative, -1 for an ignored entry.
    """
    delta = 0.5 if 'RS' in name else 1.0
    values = [float(logit.detach()) for logit in logits]
    reference = loop_rs_loss(values, targets, delta)
    ranking, grad = reference.ranking, reference.ranking_grad
    if 'Bucketed' in name:
        ranking, grad = loop_bucketed_ranking(values, targets, delta)
    losses = {'loss_rank': ranking}
    if 'RS' in name:
        losses['loss_sort'] = reference.sorting
        grad = [a + b for a, b in zip(grad, reference.sorting_grad, strict=True)]
    return losses, sum(g * logit for g, logit in zip(grad, logits, strict=True) if g != 0)
