"""The entries of a call as an accelerator ranks them: float64, with the sign turned round.

``z = -logit`` ascends where the logits descend. Sums over what ranks above a logit are then prefix sums, and need no
operation that reverses a tensor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Negated(NamedTuple):
    """Positives and negatives of a call, with ``z = -logit``; float64."""

    positives: Tensor
    """``z`` of the positives, ``(P,)``, ascending."""
    indices: Tensor
    """The indices of the positives among the flattened entries, in that order; ``(P,)`` int64."""
    order: Tensor
    """The places of the positives in the order in which they were given, in that order; ``(P,)`` int64."""
    negatives: Tensor
    """``z`` of the negatives, ``(n,)``: one value for each entry, infinity where the entry is not a negative."""
    constants: Tensor
    """-1, 0 and 1, ``(3, 1)``: made once, because making a constant is a launch."""
    signs: Tensor
    """-1 and 1, ``(2, 1)``: a view of the constants."""
    notes: Tensor
    """``(n,)``: NaN if the entry takes part and is not finite, else 0."""


def negate(logits: Tensor, targets: Tensor, positive_indices: Tensor, groups: Tensor | None = None) -> Negated:
    """Negate and sort what takes part.

    Args:
        logits: ``(n,)``, of any floating-point dtype.
        targets: ``(n,)``; 0 for a negative.
        positive_indices: ``(P,)`` int64, P >= 1.
        groups: The group of each entry, ``(n,)`` int64; the positives are then sorted by group first. None for one.
    """
    constants = torch.arange(-1, 2, dtype=torch.float64, device=logits.device)
    z = logits * constants.narrow(0, 0, 1)
    positives, order = z.index_select(0, positive_indices).sort()
    indices = positive_indices.index_select(0, order)
    if groups is not None:
        by_group = groups.index_select(0, indices).argsort(stable=True)
        positives, indices, order = (values.index_select(0, by_group) for values in (positives, indices, order))
    notes = (z + targets).mul_(0).masked_fill_(targets < 0, 0)
    constants = constants.unsqueeze(1)
    negatives = z.masked_fill_(targets != 0, torch.inf)
    return Negated(positives, indices, order, negatives, constants, constants[::2], notes)
