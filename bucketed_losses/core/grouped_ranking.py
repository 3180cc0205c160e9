"""rank+ and FP of the positives of many rankings (Eq. 1, 13), and what each negative gets, in one computation.

This is :mod:`bucketed_losses.core.ranking_sums` with :class:`GroupedEdges` in place of edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .bucket_sums import bucket_sums
from .grouped_edges import GroupedEdges, group_edges
from .negated import Negated
from .ramps import negated_ramps, steps_between
from .ranking_sums import Ranked


def rank_groups(
    entries: Negated, groups: Tensor, positive_groups: Tensor, num_groups: int, delta: float, exact: bool
) -> Ranked:
    """Rank the positives of each group.

    Args:
        entries: Positives in ascending order of their groups, and of z in each group.
        groups: The group of each entry, ``(n,)`` int64.
        positive_groups: The group of each positive, ``(P,)`` int64.
        num_groups: G.
        delta: Half-width of H.
        exact: The edges of the buckets are the positives +- delta instead of the positives.
    """
    if delta == 0:
        return _rank_without_smoothing(entries, groups, positive_groups, num_groups)
    z, signs = entries.positives, entries.signs
    around = torch.add(z, signs, alpha=delta)
    kinks, kink_groups = around.view(-1), positive_groups.repeat(2)
    edges = group_edges(kinks, kink_groups, num_groups, right=True)
    if exact:
        values = entries.negatives.clamp(kinks.min(), kinks.max())
        buckets = edges.find(values, groups)
        sums = bucket_sums(buckets, values, signs[1], len(edges.keys))[:, 1:]
    else:
        # The means of the published buckets are negatives that count as often as their buckets have members.
        published = _published_edges(entries, positive_groups, num_groups, delta)
        published_buckets = published.find(entries.negatives, groups)
        sizes, sums = bucket_sums(published_buckets, entries.negatives, signs[1], len(published.keys))[:, 1:].unbind()
        sizes.index_fill_(0, published.closings, 0)
        sums.index_fill_(0, published.closings, 0)
        values = (sums / sizes.clamp(min=1)).clamp(kinks.min(), kinks.max())
        buckets = edges.find(values, published.groups())
        sums = sizes.new_zeros(2, len(edges.keys)).index_add_(1, buckets, torch.stack([sizes, sizes * values]))
    own = torch.zeros_like(sums).index_add_(1, edges.find(z, positive_groups), torch.stack([signs[1].expand_as(z), z]))
    sums = edges.sums_before(torch.stack([sums, own], dim=1), kink_groups)
    steps = steps_between(negated_ramps(sums, kinks).view(2, 2, -1))

    def share(weights: Tensor) -> Tensor:
        signed = weights * signs
        ramps = edges.sums_behind(torch.stack([signed, signed * around]).view(2, -1))
        slopes, constants = ramps.index_select(1, buckets).unbind()
        shares = torch.addcmul(constants, slopes, values, value=-1).clamp_(min=0)  # rounding takes nothing below 0
        if exact:
            return shares
        return shares.index_fill_(0, published.closings, 0).index_select(0, published_buckets)

    return Ranked(steps[0], steps.sum(0), share)


def _published_edges(entries: Negated, positive_groups: Tensor, num_groups: int, delta: float) -> GroupedEdges:
    """The positives, and the floor of each group behind them (Eq. 12)."""
    z = entries.positives
    floors = z.new_full((num_groups,), -torch.inf).scatter_reduce_(0, positive_groups, z, 'amax') + delta
    edges = torch.cat([z, floors])
    edge_groups = torch.cat([positive_groups, torch.arange(num_groups, device=z.device)])
    return group_edges(edges, edge_groups, num_groups, right=False)


def _rank_without_smoothing(entries: Negated, groups: Tensor, positive_groups: Tensor, num_groups: int) -> Ranked:
    edges = group_edges(entries.positives, positive_groups, num_groups, right=False)
    buckets = edges.find(entries.negatives, groups)
    sizes, own = (
        bucket_sums(found, None, entries.signs[1], len(edges.keys))[0, 1:]
        for found in (buckets, edges.find(entries.positives, positive_groups))
    )
    steps = edges.sums_before(torch.stack([sizes, own]), positive_groups)

    def share(weights: Tensor) -> Tensor:
        return edges.sums_behind(weights.unsqueeze(0))[0].index_select(0, buckets)

    return Ranked(steps[0], steps.sum(0), share)
