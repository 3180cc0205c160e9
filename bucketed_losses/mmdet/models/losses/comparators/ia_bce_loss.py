"""IA-BCE, the IoU-aware cross-entropy of Align-DETR: a comparator for studies."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from .entry_loss import EntryLoss

SMALLEST_TARGET = 0.01
"""The lower bound of the target of a positive; it is not in the paper, but in its published code."""


def ia_bce_loss(logits: Tensor, ious: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """IA-BCE of each entry, from Cai et al., "Align-DETR: Improving DETR with Simple IoU-aware BCE loss" (2023).

    With the probability ``p = sigmoid(logit)`` and the IoU ``u`` of a positive::

        positive:  BCE(p, t),  t = max(p ** alpha * u ** (1 - alpha), 0.01), detached
        negative:  p ** gamma * BCE(p, 0)

    The factor of the negatives has a gradient, as that of focal loss. The paper's weights of several positives of one
    object belong to its matching and are left out.

    Args:
        logits: Floating point, any shape.
        ious: The same shape: the IoU of a positive, above 0; 0 for negatives.
        alpha: The exponent of the probability in the target, in [0, 1].
        gamma: The exponent of the factor of negatives, 0 or more.

    Returns:
        The shape of ``logits``.
    """
    probabilities = logits.sigmoid()
    positive = ious > 0
    aligned = (probabilities.detach() ** alpha * ious ** (1 - alpha)).clamp(min=SMALLEST_TARGET)
    targets = torch.where(positive, aligned, torch.zeros_like(aligned))
    # The power of a probability that rounds to 0 has an infinite derivative if gamma is below 1.
    powers = probabilities**gamma if gamma >= 1 else (gamma * logsigmoid(logits)).exp()
    factors = torch.where(positive, torch.ones_like(powers), powers)
    return factors * binary_cross_entropy_with_logits(logits, targets, reduction='none')


@MODELS.register_module()
class IABCELoss(EntryLoss):
    """:func:`ia_bce_loss` with the interface of MMDetection's losses. A comparator for studies.

    Args:
        alpha, gamma: As for the function.
        loss_weight, use_sigmoid: As for :class:`EntryLoss`.

    Raises:
        ValueError: ``alpha`` is not in [0, 1], ``gamma`` is negative, or ``use_sigmoid`` is False.
    """

    def __init__(
        self, alpha: float = 0.25, gamma: float = 2.0, loss_weight: float = 1.0, use_sigmoid: bool = True
    ) -> None:
        super().__init__(loss_weight, use_sigmoid)
        if not 0 <= alpha <= 1:
            raise ValueError(f'IABCELoss: alpha must lie in [0, 1], got {alpha}')
        if gamma < 0:
            raise ValueError(f'IABCELoss: gamma must be 0 or more, got {gamma}')
        self.alpha = alpha
        self.gamma = gamma

    def entry_losses(self, pred: Tensor, target: Tensor) -> Tensor:
        return ia_bce_loss(pred, target, self.alpha, self.gamma)
