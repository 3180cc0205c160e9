"""The losses of a head, slowly and from the paper: decode, IoU, loop over pairs, score weights, self-balance.

Nothing here shares code with the package or with MMDetection; assignment is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    entries, boxes = _entries_and_boxes(predictions, box_weight)
    return combined_losses(name, entries, [boxes])


def slow_parts(name: str, predictions: list[Prediction], box_weight: float) -> tuple[dict[str, float], Tensor, Tensor]:
    """The ranking losses by log name, a total with their gradient, and the box loss before it is balanced."""
    entries, boxes = _entries_and_boxes(predictions, box_weight)
    losses, total = slow_ranking(name, *zip(*entries, strict=True))
    return losses, total, _weighted_means([boxes])['loss_bbox']


def _entries_and_boxes(
    predictions: list[Prediction], box_weight: float
) -> tuple[list[tuple[Tensor, float]], list[tuple[Tensor, dict[str, Tensor]]]]:
    """Logits and targets of all classes; the weight and the loss of each positive's box."""
    entries, boxes = [], []
    for p in predictions:
        num_classes = len(p.scores)
        iou = None
        if p.label < num_classes and not p.ignored:
            loss, iou = giou(decode(p.prior, p.delta), p.target)
            boxes.append((p.scores.detach().sigmoid().max(), {'loss_bbox': box_weight * loss}))
        entries += entries_of(p.scores, p.label, iou, range(num_classes) if p.ignored else ())
    return entries, boxes


def entries_of(
    scores: Tensor, label: int, quality: Tensor | float | None, ignored: Iterable[int] = ()
) -> list[tuple[Tensor, float]]:
    """The logit and the target of every class of one prediction; the class of its label has its quality, if any."""
    target = 0.0 if quality is None else max(float(torch.as_tensor(quality).detach()), 1e-7)
    return [(logit, -1.0 if c in ignored else target if c == label else 0.0) for c, logit in enumerate(scores)]


def slow_ranking(name: str, logits: Sequence[Tensor], targets: Sequence[float]) -> tuple[dict[str, float], Tensor]:
    """The ranking losses of entries by log name, and a total whose gradient is the Identity Update.

    Args:
        name: Name of the loss.
        logits: A scalar for each entry.
        targets: IoU of a positive, 0 for a negative, -1 for an ignored entry.
    """
    delta = 0.5 if 'RS' in name else 1.0
    values, targets = [float(logit.detach()) for logit in logits], list(targets)
    reference = loop_rs_loss(values, targets, delta)
    ranking, grad = reference.ranking, reference.ranking_grad
    if 'Bucketed' in name:
        ranking, grad = loop_bucketed_ranking(values, targets, delta)
    losses = {'loss_rank': ranking}
    if 'RS' in name:
        losses['loss_sort'] = reference.sorting
        grad = [a + b for a, b in zip(grad, reference.sorting_grad, strict=True)]
    return losses, sum(g * logit for g, logit in zip(grad, logits, strict=True) if g != 0)


def combined_losses(
    name: str, entries: list[tuple[Tensor, float]], groups: list[list[tuple[Tensor, dict[str, Tensor]]]]
) -> tuple[dict[str, float], Tensor]:
    """A ranking loss by loops, and the weighted means of the losses of boxes, balanced together if the loss does that.

    A group has the weight and the losses of each of its boxes. The total that comes with the values has their gradient.
    """
    losses, total = slow_ranking(name, *zip(*entries, strict=True))
    boxes = _weighted_means(groups)
    if 'RS' in name:
        factor = sum(losses.values()) / sum(boxes.values()).detach()
        boxes = {key: value * factor for key, value in boxes.items()}
    losses.update({key: float(value.detach()) for key, value in boxes.items()})
    return losses, total + sum(boxes.values())


def _weighted_means(groups: list[list[tuple[Tensor, dict[str, Tensor]]]]) -> dict[str, Tensor]:
    return {
        key: sum(weight * parts[key] for weight, parts in group) / sum(weight for weight, _ in group)
        for group in groups
        for key in group[0][1]
    }


def assert_equal_losses(
    losses: dict[str, Tensor], maps: list[Tensor], expected: dict[str, float], total: Tensor, retain: bool = False
) -> None:
    """The values of a head and their gradients with respect to its maps are those of the slow computation."""
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert abs(losses[key].item() - value) <= 1e-5 + 1e-4 * abs(value), (key, losses[key].item(), value)
    got = torch.autograd.grad(sum(losses.values()), maps, retain_graph=retain, materialize_grads=True)
    wanted = torch.autograd.grad(total, maps, materialize_grads=True)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
