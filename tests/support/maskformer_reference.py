"""The losses and the matching of MaskFormer and Mask2Former, slowly and from the papers: loops, all assignments tried.

Nothing here shares code with the package or with MMDetection. Masks are lists of frames; an image has one frame.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from detr_reference import focal_value, slow_ranking
from torch import Tensor

SHIFT = -math.log(99)  # logits that start at 0 are read as probabilities that start at 0.01


class Settings(NamedTuple):
    """What differs between the detectors.

    Attributes:
        at_points: Losses and costs at points, which are the centres of the pixels of the predictions (Mask2Former);
            otherwise losses are at the size of the image, and costs at the size of the predictions (MaskFormer).
        pixel_weight, dice_weight: The weights of the losses, and of the costs.
    """

    at_points: bool
    pixel_weight: float
    dice_weight: float


def slow_layer(
    loss: str, settings: Settings, logits: Tensor, masks: Tensor, labels: list[list[int]], objects: list[Tensor]
) -> tuple[dict[str, float], Tensor]:
    """Values of a layer by log name, and a total whose gradient is that of the losses.

    Args:
        loss: Type of the ranking loss; its weight is 2.
        settings: The detector.
        logits: ``(batch, n, num_classes)``.
        masks: ``(batch, n, num_frames, h, w)``.
        labels: Those of the objects of each image.
        objects: ``(num_objects, num_frames, 2 h, 2 w)`` binary masks of each image.
    """
    entries, targets = [], []
    pixel = dice = masks.sum() * 0
    num_pos = sum(len(own) for own in labels)
    for image, own in enumerate(labels):
        chosen = _assignment(settings, logits[image], masks[image], own, objects[image])
        for query in range(logits.size(1)):
            iou = 0.0
            if query in chosen:
                target = objects[image][chosen.index(query)]
                iou = max(_iou(masks[image, query], target), 1e-7)
                own_pixel, own_dice = _losses(settings, masks[image, query], target)
                pixel, dice = pixel + own_pixel / num_pos, dice + own_dice / num_pos
            for number in range(logits.size(2)):
                entries.append(logits[image, query, number])
                targets.append(iou if query in chosen and own[chosen.index(query)] == number else 0.0)
    losses, ranked = slow_ranking(loss, entries, targets, 2.0)
    if 'RS' in loss and num_pos:
        factor = sum(losses.values()) / float((pixel + dice).detach())
        pixel, dice = pixel * factor, dice * factor
    losses |= {'loss_mask': float(pixel.detach()), 'loss_dice': float(dice.detach())}
    return losses, ranked + pixel + dice


def _iou(mask: Tensor, target: Tensor) -> float:
    """Of all frames; the pixel of the object nearest to the centre of pixel (y, x) is (2 y + 1, 2 x + 1)."""
    both = either = 0
    for frame, y, x in _pixels(mask):
        predicted, true = bool(mask[frame, y, x] > 0), bool(target[frame, 2 * y + 1, 2 * x + 1])
        both, either = both + (predicted and true), either + (predicted or true)
    return both / max(either, 1)


def _losses(settings: Settings, mask: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mask and Dice loss of one object with their weights."""
    pixel = dice = mask.sum() * 0
    num_frames = len(mask)
    for frame in range(num_frames):
        if settings.at_points:
            pairs = [(mask[frame, y, x], _around(target[frame], y, x)) for _, y, x in _pixels(mask[:1])]
            values = [_cross_entropy(logit, true) for logit, true in pairs]
            # MMDetection multiplies this loss by the number of frames.
            pixel = pixel + num_frames * sum(values) / len(values)
        else:
            pairs = [
                (_between(mask[frame], (y - 0.5) / 2, (x - 0.5) / 2), float(target[frame, y, x]))
                for _, y, x in _pixels(target[:1])
            ]
            values = [_focal(logit.sigmoid(), true) for logit, true in pairs]
            pixel = pixel + sum(values) / len(values)
        dice = dice + _dice(pairs)
    return settings.pixel_weight * pixel, settings.dice_weight * dice


def _assignment(
    settings: Settings, logits: Tensor, masks: Tensor, labels: list[int], objects: Tensor
) -> tuple[int, ...]:
    """For each object the query that it gets."""

    def cost(query: int, index: int) -> float:
        p = float((logits[query, labels[index]] + SHIFT).sigmoid())
        pairs = []
        for frame, y, x in _pixels(masks[query]):
            true = objects[index, frame]
            pairs.append(
                (masks[query, frame, y, x], _around(true, y, x) if settings.at_points else float(true[2 * y, 2 * x]))
            )
        pixel = _cross_entropy if settings.at_points else _focal_cost
        values = [float(pixel(logit, true)) for logit, true in pairs]
        return (
            4 * (focal_value(p, 1) - focal_value(p, 0))
            + settings.pixel_weight * sum(values) / len(values)
            + settings.dice_weight * float(_dice(pairs))
        )

    with torch.no_grad():
        costs = [[cost(query, index) for index in range(len(labels))] for query in range(len(logits))]
    return min(
        itertools.permutations(range(len(logits)), len(labels)),
        key=lambda order: sum(costs[query][index] for index, query in enumerate(order)),
    )


def _pixels(mask: Tensor) -> list[tuple[int, int, int]]:
    return list(itertools.product(*(range(size) for size in mask.shape)))


def _around(target: Tensor, y: int, x: int) -> float:
    """The value of a mask of twice the size at the centre of a pixel: the mean of four pixels."""
    return float(target[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].float().mean())


def _between(mask: Tensor, y: float, x: float) -> Tensor:
    """Bilinear interpolation at a position in pixels; positions outside count as the border."""
    height, width = mask.shape
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    return (
        (1 - down) * ((1 - across) * mask[top, left] + across * mask[top, right])
        + down * ((1 - across) * mask[bottom, left] + across * mask[bottom, right])
    )  # fmt: skip


def _cross_entropy(logit: Tensor, true: float) -> Tensor:
    p = logit.sigmoid()
    return -true * p.log() - (1 - true) * (1 - p).log()


def _focal(p: Tensor, true: float) -> Tensor:
    return -0.25 * (1 - p) ** 2 * p.log() if true else -0.75 * p**2 * (1 - p).log()


def _focal_cost(logit: Tensor, true: float) -> Tensor:
    return _focal(logit.sigmoid(), true)


def _dice(pairs: list[tuple[Tensor, float]]) -> Tensor:
    probabilities = [logit.sigmoid() for logit, _ in pairs]
    overlap = sum(p * true for p, (_, true) in zip(probabilities, pairs, strict=True))
    return 1 - (2 * overlap + 1) / (sum(probabilities) + sum(true for _, true in pairs) + 1)
