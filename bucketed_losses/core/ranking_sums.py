"""rank+ and FP of the positives (Eq. 1, 13) and what each negative gets, as an accelerator computes them.

There is one function for each kind of buckets: exact ones, the published ones, and those without smoothing, where both
are the same. No number of operations depends on the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import devices
from .bucket_sums import bucket_sums, num_places
from .negated import Negated
from .ramps import find_kinks, negated_ramps, ramps_of_kinks, steps_between


class Ranked(NamedTuple):
    """Sums of steps at the positives, times ``2 delta`` if delta > 0; ``(P,)`` float64 in ascending order of ``z``."""

    false_positives: Tensor
    """FP(i)."""
    ranks: Tensor
    """rank(i) = rank+(i) + FP(i)."""
    share: Callable[[Tensor], Tensor]
    """From weights ``(P,)`` to ``sum_i weights_i H(x_ij)`` for every entry j, ``(n,)``; 0 if it is not a negative."""


def rank(entries: Negated, delta: float, exact: bool) -> Ranked:
    """Rank the positives; the edges of the buckets are the positives +- delta if ``exact``, else the positives."""
    if delta == 0:
        return _rank_without_smoothing(entries)
    return (_rank_exactly if exact else _rank_bucketed)(entries, delta)


def _rank_exactly(entries: Negated, delta: float) -> Ranked:
    """Buckets between the kinks ``z - delta`` and ``z + delta``, in which every H is linear; ``delta > 0``."""
    signs = entries.signs
    kinks = find_kinks(entries.positives, signs, delta)
    highest, floor = kinks.edges[:1], kinks.edges[-1:]
    # Every H is 1 at and above the highest kink and 0 at the floor, so a negative outside may move there. An outlier
    # then takes no digits from the sums of the others, and what is not a negative, at infinity, takes no part.
    negatives = entries.negatives.clamp(highest, floor)
    # The last bucket, at the floor, takes no part.
    buckets, sums = _sum_up(negatives, entries.positives, floor, kinks.edges, signs[1], right=True)
    prefix = sums.cumsum(-1).narrow(-1, 0, len(kinks.edges))
    ramps = negated_ramps(prefix, kinks.edges)
    ramps = torch.empty_like(ramps).index_copy_(1, kinks.order, ramps)
    steps = steps_between(ramps.view(2, 2, -1))

    def share(weights: Tensor) -> Tensor:
        slopes, values = ramps_of_kinks(kinks, weights, signs).index_select(1, buckets).unbind()
        return torch.addcmul(values, slopes, negatives, value=-1).clamp_(min=0)  # rounding takes nothing below 0

    return Ranked(steps[0], steps.sum(0), share)


def _rank_bucketed(entries: Negated, delta: float) -> Ranked:
    """Buckets between the positives, all of whose members count at their mean (Eq. 12 to 14); ``delta > 0``."""
    z, signs = entries.positives, entries.signs
    kinks = find_kinks(z, signs, delta)
    floor = kinks.edges[-1:]
    edges = torch.cat([kinks.edges[:1], z, floor, floor])
    lower, upper = edges[:-1], edges[1:]
    # A negative on an edge ranks above it. The last bucket, beyond the floor, takes no part.
    filler = z.new_full((1,), torch.inf)
    buckets, sums = _sum_up(entries.negatives, z, filler, lower, signs[1], right=False)
    sizes, moments = sums.narrow(-1, 1, len(lower)).unbind()
    # A mean may move to the highest kink or to the floor, as in `_rank_exactly`; the mean of the last bucket does.
    # An empty bucket has no mean (NaN) and gets its lower edge.
    means = (moments / sizes).fmax(lower).fmin(upper)
    if devices.is_traced():
        moments.copy_(sizes * means)
    else:
        torch.mul(sizes, means, out=moments)  # one launch less; a compiler or a transform would refuse it
    prefix = sums.cumsum(-1)
    at = kinks.around.view(1, -1).repeat(2, 1)
    means_below = torch.searchsorted(means, at)
    prefix = prefix.gather(2, means_below.unsqueeze(0).expand(2, -1, -1))
    steps = steps_between(negated_ramps(prefix, at).view(2, 2, -1))

    def share(weights: Tensor) -> Tensor:
        own = means[0]
        slopes, values = (
            ramps_of_kinks(kinks, weights, signs)
            .index_select(1, torch.searchsorted(_behind_first(kinks.edges), own, right=True))
            .unbind()
        )
        return torch.addcmul(values, slopes, own, value=-1).clamp_(min=0).index_select(0, buckets)

    return Ranked(steps[0], steps.sum(0), share)


def _rank_without_smoothing(entries: Negated) -> Ranked:
    """``delta = 0``: H(x_ij) is 1 if ``z_j <= z_i`` and 0 otherwise, and sums of it count."""
    z = entries.positives
    buckets = torch.searchsorted(z, entries.negatives)  # how many positives are above
    sizes = bucket_sums(buckets, None, entries.signs[1], len(z) + 1)[0]
    false_positives = sizes[1:-1].cumsum(0)

    def share(weights: Tensor) -> Tensor:
        prefix = pad(weights.cumsum(0), (1, 0))
        return (prefix[-1:] - prefix).index_select(0, buckets)

    return Ranked(false_positives, false_positives + torch.searchsorted(z, z, right=True), share)


def _sum_up(
    negatives: Tensor, positives: Tensor, filler: Tensor, lower_edges: Tensor, one: Tensor, right: bool
) -> tuple[Tensor, Tensor]:
    """The buckets of the negatives, and sizes and sums of the buckets of negatives and of positives.

    Both are bucketed together, the positives into buckets of their own.

    Args:
        negatives: ``(n,)`` float64.
        positives: ``(P,)`` float64.
        filler: ``(1,)``, a value in the last bucket; it makes up for a number of entries that the places do not divide.
        lower_edges: Of the B buckets, ascending, ``(B,)``; no value is below the first one.
        one: ``(1,)`` float64, the number 1.
        right: Whether a value that equals an edge is above it.

    Returns:
        ``(n,)`` int64, and ``(2, 2, 1 + B)`` float64: sizes and sums; negatives and positives; an empty bucket and B.
    """
    num, num_buckets = len(negatives), len(lower_edges)
    places = num_places(num + len(positives), 2 * num_buckets + 1)
    num_more = -(num + len(positives)) % places
    both = torch.cat([negatives, positives, filler.expand(num_more)])
    buckets = torch.searchsorted(_behind_first(lower_edges), both, right=right)
    buckets[num:].add_(num_buckets + 1)
    sums = bucket_sums(buckets, both, one, 2 * num_buckets + 1, places)
    return buckets[:num], sums.view(2, 2, num_buckets + 1)


def _behind_first(edges: Tensor) -> Tensor:
    """``edges[1:]`` of ascending edges, as ``torch.searchsorted`` takes them.

    Compiled code gets them as a new tensor. With a view, inductor of torch 2.11 searches from the first element of its
    storage on CUDA, or fails ("NotImplementedError: SliceView").
    """
    return torch.maximum(edges[1:], edges[:-1]) if devices.is_compiling() else edges[1:]
