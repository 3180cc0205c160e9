"""The positives among themselves: rank+ (Eq. 1), and the sorting error of RS Loss with its Identity Update."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .dominance import IoUOrder, dominance_sums
from .step_sums import Band, band_above, sums_above


class RankedPositives(NamedTuple):
    """What the positives say without the negatives; ``(P,)`` float64 in ascending order of their logits."""

    order: Tensor
    """Their indices in that order, int64."""
    logits: Tensor
    origin: Tensor
    """The scalar that is subtracted from every logit before sums are taken."""
    floor: Tensor
    """The scalar ``min(logits) - delta``: a negative below it is 0 steps above every positive."""
    ranks: Tensor
    """rank+ (Eq. 1)."""
    sorting: Tensor
    """Sorting error minus its target, ``l_S - l*_S`` (S.3, S.4); zeros if it was not asked for."""
    sorting_grad: Tensor
    """Identity Update of the sorting error (S.8), times P."""


def rank_positives(
    positives: Tensor, ious: Tensor, delta: float, sort: bool, least_missorted: float = 0.0
) -> RankedPositives:
    """Rank the positives among themselves; never synchronises with the host.

    Args:
        positives: ``(P,)`` logits, P >= 1.
        ious: ``(P,)`` in (0, 1].
        delta: Half-width of H.
        sort: Compute the sorting error too.
        least_missorted: A positive above which fewer positives of a smaller IoU rank than this has a sorting error, but
            no update by it; the published code leaves such updates out.
    """
    order = positives.argsort()
    logits = positives.index_select(0, order).double()
    # The loss does not change if all logits are shifted, and prefix sums are most accurate near zero. For delta = 0 the
    # sums only count, and a shift could round two neighbouring logits to one.
    origin = logits.select(0, len(logits) // 2) if delta > 0 else logits.new_zeros(())
    s = logits - origin
    band = band_above(s, s, delta)
    ranks = sums_above(s, torch.ones_like(s), s, band, delta).values
    sorting = sorting_grad = torch.zeros_like(s)
    if sort:
        sorting, sorting_grad = _sorting_update(
            s, ious.index_select(0, order).double(), ranks, band, delta, least_missorted
        )
    return RankedPositives(order, logits, origin, logits.select(0, 0) - delta, ranks, sorting, sorting_grad)


def _sorting_update(
    s: Tensor, ious: Tensor, ranks: Tensor, band: Band, delta: float, least_missorted: float
) -> tuple[Tensor, Tensor]:
    """``l_S - l*_S`` (S.3, S.4) and its Identity Update (S.8) times P, for ascending logits ``s``; ``(P,)`` both."""
    ious = ious.nan_to_num()  # the loss is NaN already, and an order needs numbers
    sorted_ious, by_iou = ious.sort()
    below = torch.searchsorted(sorted_ious, ious)
    sorting, missorted = _sorting_errors(s, 1 - ious, IoUOrder(below, by_iou), ranks, band, delta)
    updates = missorted > least_missorted
    per_pair = torch.where(updates, sorting / missorted, 0)
    del missorted
    # A positive i is pushed down by all k with t_k > t_i that it outranks: sum_k per_pair_k H(s_i - s_k) [t_k > t_i].
    # This is a dominance sum with logits and IoUs mirrored.
    above = len(s) - torch.searchsorted(sorted_ious, ious, right=True)
    mirrored_order = IoUOrder(above.flip(0), len(s) - 1 - by_iou.flip(0))
    del sorted_ious, by_iou, below, above
    mirrored = -s.flip(0)
    mirrored_band = band_above(mirrored, mirrored, delta)
    demotion = dominance_sums(mirrored, mirrored_order, per_pair.flip(0).unsqueeze(0), mirrored_band, delta)
    return sorting, demotion.squeeze(0).flip(0) - torch.where(updates, sorting, 0)


def _sorting_errors(
    s: Tensor, costs: Tensor, order: IoUOrder, ranks: Tensor, band: Band, delta: float
) -> tuple[Tensor, Tensor]:
    """``l_S - l*_S`` for costs ``1 - t``, and ``D_i = sum_k H(x_ik) [t_k < t_i]`` (S.7)."""
    current = sums_above(s, costs, s, band, delta).values  # sum_k H(x_ik) (1 - t_k)
    # Sums over [t_k >= t_i] are sums over all k minus those over [t_k < t_i].
    worse, worse_costs = dominance_sums(s, order, torch.stack([torch.ones_like(s), costs]), band, delta)
    sorting = current / ranks - (current - worse_costs) / (ranks - worse)
    # If no positive with a smaller IoU ranks above i, then D_i = 0 up to rounding, and i has no sorting error.
    has_error = worse > 1e-12 * ranks
    return torch.where(has_error, sorting, 0), torch.where(has_error, worse, 0)
