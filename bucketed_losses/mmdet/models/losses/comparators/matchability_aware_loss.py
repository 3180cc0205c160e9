"""MAL, the matchability-aware loss of DEIM: a comparator for studies."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .entry_loss import EntryLoss


def matchability_aware_loss(logits: Tensor, ious: Tensor, gamma: float = 1.5) -> Tensor:
    """MAL of each entry, from Huang et al., "DEIM: DETR with Improved Matching for Fast Convergence" (2024).

    With the probability ``p = sigmoid(logit)`` and the IoU ``q`` of a positive::

        positive:  -q ** gamma * log(p) - (1 - q ** gamma) * log(1 - p)
        negative:  -p ** gamma * log(1 - p)

    The factor ``p ** gamma`` of the negatives has no gradient, as in the published code of DEIM.

    Args:
        logits: Floating point, any shape.
        ious: The same shape: the IoU of a positive, above 0; 0 for negatives.
        gamma: The exponent of the IoUs and of the factor of negatives.

    Returns:
        The shape of ``logits``.
    """
    negative_factors = logits.detach().sigmoid() ** gamma
    factors = torch.where(ious > 0, torch.ones_like(negative_factors), negative_factors)
    return factors * binary_cross_entropy_with_logits(logits, ious**gamma, reduction='none')


@MODELS.register_module()
class MatchabilityAwareLoss(EntryLoss):
    """:func:`matchability_aware_loss` with the interface of MMDetection's losses. A comparator for studies.

    Args:
        gamma: As for the function.
        loss_weight, use_sigmoid: As for :class:`EntryLoss`.

    Raises:
        ValueError: ``gamma`` is 0 or negative, or ``use_sigmoid`` is False.
    """

    def __init__(self, gamma: float = 1.5, loss_weight: float = 1.0, use_sigmoid: bool = True) -> None:
        super().__init__(loss_weight, use_sigmoid)
        if gamma <= 0:
            raise ValueError(f'MatchabilityAwareLoss: gamma must be above 0, got {gamma}')
        self.gamma = gamma

    def entry_losses(self, pred: Tensor, target: Tensor) -> Tensor:
        return matchability_aware_loss(pred, target, self.gamma)
