"""The box losses of Side-Aware Boundary Localization (SABL), trained together with a ranking loss."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmdet.models.losses import GIoULoss
from torch import Tensor

from .box_weighting import PositiveBoxes, at_least_float32, score_weights, weighted_mean


class Sides(NamedTuple):
    """What a head with side-aware boxes predicts for ``n`` boxes, or the targets, or their weights.

    A side has ``k`` buckets, and a box four sides: left, right, top, bottom.

    Attributes:
        buckets: ``(n, 4 * k)`` logits of the buckets of each side.
        offsets: ``(n, 4 * k)`` the offset of the side from each bucket, in bucket widths.
    """

    buckets: Tensor
    offsets: Tensor

    def at(self, rows: Tensor) -> Sides:
        """Those of some boxes, at least float32."""
        return Sides(*(at_least_float32(part[rows]) for part in self))


class SideAwareBoxes(PositiveBoxes):
    """Positives without a loss on decoded boxes: the losses of their buckets and offsets take its place.

    aLRP Loss measures the errors of the decoded boxes, so it trains them directly, in addition to buckets and offsets.
    """

    def weighted_losses(self, shared: bool, equally: bool) -> dict[str, Tensor]:
        """The losses of buckets and offsets, which are already weighted."""
        return dict(self.other_losses)


def side_aware_boxes(
    head: Any,
    priors: Tensor,
    predicted: Sides,
    targets: Sides,
    weights: Sides,
    logits: Tensor,
    divisors: tuple[int, int],
) -> SideAwareBoxes:
    """The ``num_pos`` positives of a head with side-aware boxes, for :meth:`RankingLoss.losses_with_boxes`.

    Args:
        head: A head of SABL: its ``bbox_coder``, ``loss_bbox_cls``, ``loss_bbox_reg`` and ``loss_cls`` are read.
        priors: ``(num_pos, 4)`` RoIs or anchors, x1 y1 x2 y2 in pixels.
        predicted, targets, weights: Those of the positives, as the head computes them.
        logits: ``(num_pos, num_classes)`` class logits.
        divisors: The loss of a positive is the sum over its buckets or offsets, divided by this number.

    Returns:
        The decoded boxes with their targets, and ``loss_bbox_cls`` and ``loss_bbox_reg``, each the mean over positives
        weighted by scores.
    """
    score, total = score_weights(logits, head.loss_cls.shared, head.loss_cls.equal_box_weights)
    losses = {}
    parts = zip(('loss_bbox_cls', 'loss_bbox_reg'), predicted, targets, weights, divisors, strict=True)
    for name, prediction, target, weight, divisor in parts:
        each = prediction  # without boxes; MMDetection's losses then return a scalar
        if len(prediction):
            each = getattr(head, name)(prediction, target, weight, reduction_override='none')
        each = each.sum(dim=1) / divisor
        losses[name] = weighted_mean(each, score, total)
    # The targets of the nearest bucket of each side are exact, so they decode to the ground-truth box.
    boxes, target_boxes = (head.bbox_coder.decode(priors, tuple(sides))[0] for sides in (predicted, targets))
    return SideAwareBoxes(GIoULoss(), boxes, target_boxes, logits, losses)
