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
    signs, num = entries.signs, len(entries.negatives)
    kinks = find_kinks(entries.positives, signs, delta)
    highest, floor = kinks.edges[:1], kinks.edges[-1:]
    # Every H is 1 at and above the highest kink and 0 at the floor, so a negative outside may move there. An outlier
    # then takes no digits from the sums of the others, and what is not a negative, at infinity, takes no part.
    negatives = entries.negatives.clamp(highest, floor)
    num_buckets = len(kinks.edges)
    places = num_places(num + len(entries.positives), 2 * num_buckets + 1)
    both = _join(negatives, entries.positives, floor, places)
    # No value is below the first edge, so that edge is left out. The last bucket, at the floor, takes no part.
    buckets = torch.searchsorted(_behind_first(kinks.edges), both, right=True)
    buckets[num:].add_(num_buckets + 1)
    sums = bucket_sums(buckets, both, signs[1], 2 * num_buckets + 1, places)
    prefix = sums.view(2, 2, num_buckets + 1).cumsum(-1).narrow(-1, 0, num_buckets)
    ramps = negated_ramps(prefix, kinks.edges)
    ramps = torch.empty_like(ramps).index_copy_(1, kinks.order, ramps)
    steps = steps_between(ramps.view(2, 2, -1))

    def share(weights: Tensor) -> Tensor:
        slopes, values = ramps_of_kinks(kinks, weights, signs).index_select(1, buckets[:num]).unbind()
        return torch.addcmul(values, slopes, negatives, value=-1).clamp_(min=0)  # rounding takes nothing below 0

    return Ranked(steps[0], steps.sum(0), share)


def _rank_bucketed(entries: Negated, delta: float) -> Ranked:
    """Buckets between the positives, all of whose members count at their mean (Eq. 12 to 14); ``delta > 0``."""
    z, signs, num = entries.positives, entries.signs, len(entries.negatives)
    kinks = find_kinks(z, signs, delta)
    floor = kinks.edges[-1:]
    lower_edges = torch.cat([kinks.edges[:1], z, floor, floor])
    edges = lower_edges[1:]
    num_buckets = len(edges)
    places = num_places(num + len(z), 2 * num_buckets + 1)
    both = _join(entries.negatives, z, z.new_full((1,), torch.inf), places)
    # A negative on an edge ranks above it. The last bucket, beyond the floor, takes no part.
    buckets = torch.searchsorted(_behind_first(lower_edges[:-1]), both)
    buckets[num:].add_(num_buckets + 1)
    sums = bucket_sums(buckets, both, signs[1], 2 * num_buckets + 1, places).view(2, 2, num_buckets + 1)
    sizes, moments = sums.narrow(-1, 1, num_buckets).unbind()
    # A mean may move to the highest kink or to the floor, as in `_rank_exactly`; the mean of the last bucket does.
    # An empty bucket has no mean (NaN) and gets its lower edge.
    means = (moments / sizes).fmax(lower_edges[:-1]).fmin(edges)
    if devices.is_compiling() or devices.is_transformed():
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
        return torch.addcmul(values, slopes, own, value=-1).clamp_(min=0).index_select(0, buckets[:num])

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


def _join(negatives: Tensor, positives: Tensor, filler: Tensor, places: int) -> Tensor:
    """Negatives and positives, which are bucketed together, the positives into buckets of their own.

    Behind them, up to a multiple of ``places``, is the ``filler (1,)``, which takes no part where it is.
    """
    num_more = -(len(negatives) + len(positives)) % places
    return torch.cat([negatives, positives, filler.expand(num_more)])


def _behind_first(edges: Tensor) -> Tensor:
    """``edges[1:]`` of ascending edges, as ``torch.searchsorted`` takes them.

    Compiled code gets them as a new tensor. With a view, inductor of torch 2.11 searches from the first element of its
    storage on CUDA, or fails ("NotImplementedError: SliceView").
    """
    return torch.maximum(edges[1:], edges[:-1]) if devices.is_compiling() else edges[1:]
