"""Logits and targets for benchmarks of losses."""

from __future__ import annotations

import torch
from torch import Tensor


def synthetic_logits(number: int, positives: int, data: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Flat float32 logits and targets on the CPU: 0 for a negative, a uniform IoU in (0, 1] for a positive.

    Args:
        number: How many logits.
        positives: How many of them are positive, at random places.
        data: 'trained-like' for what a detector sees after its first epochs: positives from N(0, 1), negatives from
            N(-6, 1.5^2). Anything else for the paper's data (S.3.2): positives from N(-1, 1), negatives from N(1, 1).
        seed: Of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(number, generator=generator)
    is_positive = torch.zeros(number, dtype=torch.bool)
    is_positive[torch.randperm(number, generator=generator)[:positives]] = True
    ious = 1 - torch.rand(number, generator=generator)
    if data == 'trained-like':
        logits = torch.where(is_positive, noise, 1.5 * noise - 6)
    else:
        logits = torch.where(is_positive, noise - 1, noise + 1)
    return logits, torch.where(is_positive, ious, 0)
