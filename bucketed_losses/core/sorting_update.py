"""The sorting error of RS Loss and its Identity Update from sums over pairs, on an accelerator."""

from __future__ import annotations

import torch
from torch import Tensor

from .pair_sums import PairSums


def sorting_update(pairs: PairSums, nonfinite: Tensor) -> tuple[Tensor, Tensor]:
    """``l_S - l*_S`` (S.3, S.4) and its Identity Update (S.8) times P; ``(P,)`` float64 both.

    In terms of the IoUs t instead of 1 - t, ``l_S = 1 - sum_k H t_k / sum_k H``, and its target likewise. If no
    positive with a smaller IoU ranks above i, the two sums of the target are those of l_S, bit by bit, and i has no
    error.

    Args:
        pairs: Of the positives.
        nonfinite: 0, or NaN if the result must be NaN; a scalar or ``(P,)`` float64.
    """
    target = pairs.all - pairs.smaller
    errors = torch.addcdiv(nonfinite, target[1], target[0])
    errors = torch.addcdiv(errors, pairs.all[1], pairs.all[0], value=-1)
    per_pair = errors / pairs.smaller[0].clamp(min=torch.finfo(torch.float64).tiny)
    return errors, pairs.transposed(per_pair) - errors
