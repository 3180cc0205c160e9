"""DR Loss (Qian et al., DR Loss: Improving Object Detection by Distributional Ranking, CVPR 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

NEGATIVE_TEMPERATURE = 0.1 / math.log(3.5)
"""The published lambda-."""
MIN_TEMPERATURE = 1e-6
"""The smallest temperature. Scores, which may be float32, are divided by it."""


def distributional_ranking(
    logits: Tensor,
    targets: Tensor,
    margin: float,
    positive_temperature: float,
    negative_temperature: float,
    smoothness: float,
    scale: float,
) -> Tensor:
    """Arguments as in :func:`bucketed_losses.functional.dr_loss`; differentiable by autograd."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    # A logit of infinity has a finite score, but the loss of a network that produces it must not look finite.
    nonfinite = torch.where(targets < 0, 0, x.detach() + targets).mul(0).sum().to(x.dtype)
    expected_positive = _expected_score(x, targets > 0, -positive_temperature, if_none=1.0)  # P+
    expected_negative = _expected_score(x, targets == 0, negative_temperature, if_none=0.0)  # P-
    distance = expected_negative - expected_positive + margin
    return scale * softplus(distance, beta=smoothness) + nonfinite


def _expected_score(logits: Tensor, chosen: Tensor, temperature: float, if_none: float) -> Tensor:
    """``sum q p`` over the chosen entries with scores p and the distribution ``q ~ exp(p / temperature)``."""
    scores = logits[chosen].sigmoid()
    if len(scores) == 0:
        return scores.sum() + if_none
    exponents = scores / temperature
    weights = (exponents - exponents.detach().max()).exp()
    # Sums of many millions of terms need more digits than the terms.
    expected = (weights * scores).sum(dtype=torch.float64) / weights.sum(dtype=torch.float64)
    return expected.to(logits.dtype)


def check_dr_settings(
    margin: float, positive_temperature: float, negative_temperature: float, smoothness: float, scale: float
) -> None:
    """Check the settings of DR Loss.

    Raises:
        TypeError: One is not a number; the message has its name.
        ValueError: One is not finite, a temperature is below 1e-6, or the smoothness is not above 0.
    """
    values = dict(
        margin=margin,
        positive_temperature=positive_temperature,
        negative_temperature=negative_temperature,
        smoothness=smoothness,
        scale=scale,
    )
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f'{name} must be a float, got {type(value).__name__}')
        if not math.isfinite(value):
            raise ValueError(f'{name} must be finite, got {value}')
        if name.endswith('temperature') and value < MIN_TEMPERATURE:
            raise ValueError(f'{name} must be at least {MIN_TEMPERATURE:g}, got {value:g}')
    if smoothness <= 0:
        raise ValueError(f'smoothness must be above 0, got {smoothness}')
