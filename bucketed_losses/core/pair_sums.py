"""Sums over pairs of positives, behind the sorting error of RS Loss (S.3, S.4, S.7), on an accelerator.

While the pairs fit into memory, a ``(P, P)`` block of them takes the fewest operations; above, the merge tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .merge_tree import MergeTree

MOST_DENSE = 2048
"""Most positives whose pairs are made one by one."""


class PairSums(NamedTuple):
    """Sums over the pairs of a positive i, with ``H(x_ik)`` times ``2 delta`` if delta > 0; rows: weights 1 and t_k."""

    all: Tensor
    """``sum_k H(x_ik) [1, t_k]``, ``(2, P)`` float64."""
    smaller: Tensor
    """``sum_k H(x_ik) [t_k < t_i] [1, t_k]``, ``(2, P)`` float64."""
    transposed: Callable[[Tensor], Tensor]
    """From weights ``(P,)`` to ``sum_i weights_i H(x_ik) [t_k < t_i]`` for every k, ``(P,)``."""


def pair_sums(z: Tensor, ious: Tensor, constants: Tensor, delta: float, groups: Tensor | None = None) -> PairSums:
    """Sums over all pairs of positives, or over the pairs of each group.

    Args:
        z: ``(P,)`` float64, ascending; with groups, finite, and ascending in each group whose sums are read.
        ious: ``(P,)``.
        constants: -1, 0 and 1, ``(3, 1)`` float64.
        delta: Half-width of H.
        groups: ``(P,)`` int64, ascending, or None.
    """
    if groups is not None:
        z = _separate(z, groups, delta)
    if len(z) <= MOST_DENSE:
        return _dense(z, ious, constants[2], delta, groups)
    tree = MergeTree(z, ious, constants, delta, None if groups is None else torch.searchsorted(groups, groups))
    return PairSums(*tree.sums(), tree.transposed)


def _separate(z: Tensor, groups: Tensor, delta: float) -> Tensor:
    """Move whole groups until z is ascending and no step reaches from one group to the next.

    A group with an entry that was not finite may not ascend. Its own sums are then wrong, those of the others right.
    """
    differs = groups.diff() != 0
    if delta == 0:  # only the order counts
        return pad((differs | (z.diff() != 0)).to(z.dtype), (1, 0)).cumsum(0)
    return pad(z.diff().masked_fill_(differs, 4 * delta).clamp_(0, 4 * delta), (1, 0)).cumsum(0)


def _dense(z: Tensor, ious: Tensor, one: Tensor, delta: float, groups: Tensor | None) -> PairSums:
    # Row k, column i.
    if delta > 0:
        steps = torch.sub(z + delta, z.unsqueeze(1)).clamp_(0, 2 * delta)
    else:
        steps = (z.unsqueeze(1) <= z).to(z.dtype)
    if groups is not None:
        steps.masked_fill_(groups.unsqueeze(1) != groups, 0)
    rows = torch.cat([one.expand(1, len(z)), ious.unsqueeze(0)])
    everything = rows @ steps
    steps.masked_fill_(ious.unsqueeze(1) >= ious, 0)
    return PairSums(everything, rows @ steps, lambda weights: steps @ weights)
