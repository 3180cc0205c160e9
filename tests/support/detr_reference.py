"""A DETR's losses and its matching, slowly and from the papers: loops over boxes, all assignments tried.

Nothing here shares code with the package or with MMDetection. Boxes are normalised cx cy w h.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from head_reference import giou
from reference import loop_bucketed_ranking, loop_rs_loss
from torch import Tensor


class Query(NamedTuple):
    """One query's prediction and what it is to predict."""

    scores: Tensor  # (num_classes,) logits
    box: Tensor  # (4,)
    label: int  # num_classes: background
    target: Tensor  # (4,), read for positives only
    size: tuple[int, int]  # width and height of its image
    ignored: bool = False


def corners(box: Tensor, size: tuple[int, int] = (1, 1)) -> Tensor:
    """x1 y1 x2 y2 in pixels."""
    cx, cy, w, h = box
    width, height = size
    return torch.stack([(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height])


def focal_value(p: float, target: int) -> float:
    """Sigmoid focal loss with alpha 0.25 and gamma 2 of one probability."""
    alpha, gamma = 0.25, 2
    return -alpha * (1 - p) ** gamma * math.log(p) if target else -(1 - alpha) * p**gamma * math.log(1 - p)


def best_assignment(
    scores: Tensor,
    boxes: Tensor,
    labels: list[int],
    targets: Tensor,
    size: tuple[int, int],
    class_cost: float,
    l1_of_corners: bool = False,
) -> tuple[int, ...]:
    """For each ground truth the query it gets, by trying all: class cost, 5 * L1 and 2 * GIoU."""

    def cost(q: int, g: int) -> float:
        p = float(scores[q, labels[g]].sigmoid())
        pair = boxes[q], targets[g]
        one, other = (corners(box) for box in pair) if l1_of_corners else pair
        l1 = float((one - other).abs().sum())
        loss, _ = giou(corners(boxes[q], size), corners(targets[g], size))
        return class_cost * (focal_value(p, 1) - focal_value(p, 0)) + 5 * l1 - 2 * (1 - float(loss))

    costs = [[cost(q, g) for g in range(len(targets))] for q in range(len(boxes))]
    return min(
        itertools.permutations(range(len(boxes)), len(targets)),
        key=lambda order: sum(costs[q][g] for g, q in enumerate(order)),
    )


def slow_query_losses(
    name: str, queries: list[Query], class_weight: float, l1_of_corners: bool = False
) -> tuple[dict[str, float], Tensor]:
    """Values by log name, and a total whose gradient is that of the losses.

    Eq. 16 for 'FocalLoss' and 'QualityFocalLoss', else Eq. 17. The weights of L1 and GIoU are Co-DETR's, 5 and 2.
    Sparse R-CNN compares corners by L1.
    """
    num_classes = len(queries[0].scores)
    positives = [q for q in queries if q.label < num_classes and not q.ignored]
    overlaps = [giou(corners(q.box, q.size), corners(q.target, q.size)) for q in positives]
    num_pos = max(len(positives), 1)
    zero = queries[0].box.sum() * 0
    pairs = [tuple(corners(box) if l1_of_corners else box for box in (q.box, q.target)) for q in positives]
    bbox = sum(((box - target).abs().sum() for box, target in pairs), zero) / num_pos * 5
    iou = sum((loss for loss, _ in overlaps), zero) / num_pos * 2
    if name == 'FocalLoss':
        p = torch.stack([q.scores.sigmoid() for q in queries if not q.ignored])
        hot = torch.tensor([[float(c == q.label) for c in range(num_classes)] for q in queries if not q.ignored])
        focal = hot * 0.25 * (1 - p) ** 2 * -p.log() + (1 - hot) * 0.75 * p**2 * -(1 - p).log()
        cls = class_weight * focal.sum() / num_pos
        losses = {'loss_cls': float(cls), 'loss_bbox': float(bbox), 'loss_iou': float(iou)}
        return losses, cls + bbox + iou
    if name == 'QualityFocalLoss':
        quality = {id(q): value.detach() for q, (_, value) in zip(positives, overlaps, strict=True)}
        cls = zero
        for q in queries:
            for c, logit in enumerate([] if q.ignored else q.scores):
                p, wanted = logit.sigmoid(), quality[id(q)] if c == q.label else torch.tensor(0.0)
                entropy = -wanted * p.log() - (1 - wanted) * (1 - p).log()
                cls = cls + class_weight * (wanted - p).abs() ** 2 * entropy / num_pos
        losses = {'loss_cls': float(cls), 'loss_bbox': float(bbox), 'loss_iou': float(iou)}
        return losses, cls + bbox + iou
    quality = {id(q): max(float(value.detach()), 1e-7) for q, (_, value) in zip(positives, overlaps, strict=True)}
    logits, targets = [], []
    for q in queries:
        for c in range(num_classes):
            logits.append(q.scores[c])
            targets.append(-1.0 if q.ignored else quality[id(q)] if c == q.label else 0.0)
    losses, ranked = slow_ranking(name, logits, targets, class_weight)
    if 'RS' in name:
        balance = sum(losses.values())
        bbox, iou = (part * balance / part.detach() if float(part) > 0 else part for part in (bbox, iou))
    losses |= {'loss_bbox': float(bbox.detach()), 'loss_iou': float(iou.detach())}
    return losses, ranked + bbox + iou


def slow_ranking(
    name: str, logits: list[Tensor], targets: list[float], weight: float
) -> tuple[dict[str, float], Tensor]:
    """The parts of a ranking loss by log name, and a value whose gradient is that of the loss.

    Targets are -1 for ignored entries, 0 for negatives, and the IoUs of positives.
    """
    values = [float(logit.detach()) for logit in logits]
    delta = 0.5 if 'RS' in name else 1.0
    reference = loop_rs_loss(values, targets, delta)
    ranking, grad = reference.ranking, reference.ranking_grad
    if 'Bucketed' in name:
        ranking, grad = loop_bucketed_ranking(values, targets, delta)
    losses = {'loss_rank': weight * ranking}
    if 'RS' in name:
        losses['loss_sort'] = weight * reference.sorting
        grad = [a + b for a, b in zip(grad, reference.sorting_grad, strict=True)]
    return losses, sum((weight * g * logit for g, logit in zip(grad, logits, strict=True) if g != 0), logits[0] * 0)
