"""The masks of the positives of a batch, in place of their boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..losses.box_weighting import score_weights, without_weight


@dataclass(frozen=True)
class PositiveMasks:
    """The IoUs and losses of masks, for the methods of ranking losses that take :class:`PositiveBoxes`.

    A positive may have several masks, those of all objects that it was assigned to; one of them is ranked.

    Attributes:
        ious: ``(num_masks,)`` IoUs of the predicted masks with their ground truth, detached.
        losses: ``(num_masks,)`` values of the mask loss.
        logits: ``(num_masks, num_classes)`` class logits of the same predictions.
        ranked: ``(num_pos,)`` indices of the masks of the ranked positives.
        loss_weight: The weight of the mask loss, a factor in ``losses``.
    """

    ious: Tensor
    losses: Tensor
    logits: Tensor
    ranked: Tensor
    loss_weight: float
    other_losses: Mapping[str, Tensor] = field(default_factory=dict)

    def rank_targets(self) -> Tensor:
        """``(num_pos,)`` IoUs of the masks of the ranked positives."""
        return self.ious[self.ranked]

    def errors(self) -> Tensor:
        """``(num_pos,)`` values of the mask loss of the ranked positives, without its weight.

        Raises:
            ValueError: The weight is 0.
        """
        return without_weight(self.losses[self.ranked], self.loss_weight)

    def weighted_losses(self, shared: bool, equally: bool) -> dict[str, Tensor]:
        """``loss_bbox``, which the head renames: the mean loss of the masks, weighted by their scores."""
        weights, total = score_weights(self.logits, shared, equally)
        return {'loss_bbox': (self.losses * weights).sum() / (total + torch.finfo(torch.float32).eps)}


def mask_ious(probabilities: Tensor, targets: Tensor) -> Tensor:
    """``(n,)`` IoUs of masks: pixels with a probability above 0.5, and binary targets, both ``(n, h, w)``."""
    predicted, true = (probabilities > 0.5).flatten(1), targets.bool().flatten(1)
    intersection, union = (predicted & true).sum(dim=1), (predicted | true).sum(dim=1)
    return intersection.float() / union.clamp(min=1)
