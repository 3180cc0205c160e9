"""Sums of the smoothed step ``H`` (Eq. 2) in near-linear time and linear memory.

``H(key - query)`` is piecewise linear in the query. With the keys sorted, a sum of steps over all keys is therefore a
difference of prefix sums at the two places where ``query - delta`` and ``query + delta`` fall among the keys; no
``(queries, keys)`` matrix is ever made. All this is float64 and of the size of the positives. The negatives are touched
twice, in their own precision: :func:`bucket_negatives` counts them, :meth:`Buckets.spread` gives them their share back.

Gathering is written as ``index_select``: unlike ``tensor[index]`` it also runs on fake CUDA tensors, with which the
tests show that nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .processes import ProcessGroup, add_up

PIECE = 2**18
"""Entries in a piece of :func:`pieces`."""

CELLS_PER_EDGE, MAX_CELLS, MOST_COMPARED = 16, 2**19, 8
"""Of :class:`Bucketizer`: size of its table (more cells leave fewer values to compare, but fall out of the cache), and
up to how many edges in a cell are compared with one by one."""


def on_cpu(tensor: Tensor) -> bool:
    """Whether to spare a CPU's cache, at the price of more operations and of values that the host reads."""
    return tensor.device.type == 'cpu'


def smoothed_step(x: Tensor, delta: float) -> Tensor:
    """``H(x)`` of Eq. 2: ``clamp(x / 2 delta + 1/2, 0, 1)``, or ``[x >= 0]`` for ``delta = 0``; any shape."""
    if delta == 0:
        return (x >= 0).to(x.dtype)
    return (x / (2 * delta) + 0.5).clamp(0, 1)


class Band(NamedTuple):
    """The keys ``[low, high)`` of each query for which H is fractional; on one side of them it is 0, on the other 1."""

    low: Tensor
    high: Tensor


class StepSums(NamedTuple):
    """Sums of steps at each query and their derivative with respect to that query, both ``(..., num_queries)``."""

    values: Tensor
    slopes: Tensor


def band_above(keys: Tensor, queries: Tensor, delta: float) -> Band:
    """Where among ascending keys ``H(key - query)`` rises from 0 to 1, for every query."""
    return Band(*torch.searchsorted(keys, torch.stack([queries - delta, queries + delta])))


def band_below(keys: Tensor, queries: Tensor, delta: float) -> Band:
    """Where among ascending keys ``H(query - key)`` falls from 1 to 0. ``H(0) = 1`` for ``delta = 0``, hence right."""
    return Band(*torch.searchsorted(keys, torch.stack([queries - delta, queries + delta]), right=True))


def sums_above(keys: Tensor, weights: Tensor, queries: Tensor, band: Band, delta: float) -> StepSums:
    """``sum_k weights_k H(keys_k - query)`` for every query, in O(n + q).

    Args:
        keys: ``(n,)`` float64, ascending.
        weights: ``(..., n)`` float64; leading dimensions are separate sums over the same keys.
        queries: ``(q,)`` float64.
        band: :func:`band_above` of these keys and queries.
        delta: half-width of the step.
    """
    # Summed from the top, so that the few entries above a well-ranked positive are not the difference of two huge sums.
    summed = [pad(values.flip(-1).cumsum(-1).flip(-1), (0, 1)) for values in _mass_and_moment(keys, weights, delta)]
    return _step_sums(summed, queries, band.high, band.low, 1, delta)


def sums_below(keys: Tensor, weights: Tensor, queries: Tensor, band: Band, delta: float) -> StepSums:
    """``sum_k weights_k H(query - keys_k)`` for every query; arguments as in :func:`sums_above`, but its band_below."""
    summed = [pad(values.cumsum(-1), (1, 0)) for values in _mass_and_moment(keys, weights, delta)]
    return _step_sums(summed, queries, band.low, band.high, -1, delta)


def _mass_and_moment(keys: Tensor, weights: Tensor, delta: float) -> list[Tensor]:
    return [weights] if delta == 0 else [weights, weights * keys]


def _step_sums(summed: list[Tensor], queries: Tensor, ones: Tensor, rest: Tensor, sign: int, delta: float) -> StepSums:
    """From mass and moment, summed to every place from the side where H is 1: it is so up to ``ones``, and 0 from
    ``rest`` on."""
    mass = summed[0].index_select(-1, ones)
    if delta == 0:
        return StepSums(mass, torch.zeros_like(mass))
    band_mass = summed[0].index_select(-1, rest) - mass
    band_moment = summed[1].index_select(-1, rest) - summed[1].index_select(-1, ones)
    slopes = band_mass * (-sign / (2 * delta))
    values = torch.addcmul(mass, slopes, queries)
    values.add_(band_moment, alpha=sign / (2 * delta)).add_(band_mass, alpha=0.5)
    return StepSums(values, slopes)


class LabelOrder(NamedTuple):
    """Positives by their labels: ``below (P,)``, how many have a smaller label than each, and ``by_label (P,)``, their
    indices in ascending order of labels."""

    below: Tensor
    by_label: Tensor


def dominance_sums(
    logits: Tensor, order: LabelOrder, weights: Tensor, band: Band, delta: float, block_bits: int | None = None
) -> Tensor:
    """``sum_k w_k H(s_k - s_i) [t_k < t_i]`` for every i: the sums behind Eq. S.4 and S.7.

    O(P log P) time and O(P) memory, exact with ties. The ``f_i`` positives whose label is below ``t_i`` are the first
    ``f_i`` in the order of labels: one aligned block of ``2^b`` positives for every bit ``b`` set in ``f_i``. What the
    lowest ``block_bits`` bits say is compared one by one; a sum over a larger block is a difference of that block's
    prefix sums in the order of logits. From one bit to the next every block is parted stably into its halves, and the
    place among a half's logits to which ``s_i -+ delta`` has moved is counted, not searched for (Claude, Navarro and
    Ordonez, "The wavelet matrix", 2015).

    Args:
        logits: ``(P,)`` float64, ascending.
        order: of the labels ``t``.
        weights: ``(m, P)`` float64, m separate sums.
        band: ``band_above(logits, logits, delta)``.
        delta: half-width of the step.
        block_bits: Fewer cost more passes over P numbers, more cost P 2^block_bits comparisons. By default one block
            for up to 256 positives, 2^17 comparisons for up to 16384, and blocks of 8 above.

    Returns:
        ``(m, P)`` float64.
    """
    num, m = len(logits), len(weights)
    below, by_label = order
    bits = max((num - 1).bit_length(), 1)
    if block_bits is None:
        block_bits = bits if bits <= 8 else max(17 - bits, 3)
    padding = (1 << max(bits, block_bits)) - num
    # In the order of labels, padded with weightless entries behind all others.
    keys = pad(logits.index_select(0, by_label), (0, padding))
    weights = pad(weights.index_select(1, by_label), (0, padding))

    block = below >> block_bits
    counts = torch.arange(1 << block_bits, device=logits.device) < (below - (block << block_bits)).unsqueeze(1)
    steps = smoothed_step(keys.view(-1, 1 << block_bits).index_select(0, block) - logits.unsqueeze(1), delta) * counts
    blocks = weights.view(m, -1, 1 << block_bits)
    values = torch.stack([(steps * weight.index_select(0, block)).sum(1) for weight in blocks])
    if bits <= block_bits:
        return values
    del steps, counts

    # Masses and moments of every key, and a last row of zeros for what is none.
    rows = pad(torch.stack([*weights, *(weights * keys)], dim=1), (0, 0, 0, 1))
    everyone = torch.arange(num + padding, dtype=torch.int32, device=logits.device)
    labels_below = below.to(torch.int32).repeat(2)
    places = torch.cat(band).to(torch.int32)
    # Of all keys before each query's high place, and of those between its two places.
    before_high, between = rows.new_zeros(2, num, 2 * m)
    members = everyone.index_copy(0, by_label, everyone.narrow(0, 0, num))
    for bit in reversed(range(block_bits, bits)):
        half = 1 << bit
        # Every block of 2^(bit + 1) members, in the order of logits: those of its lower half are keys.
        is_key = (members & half) == 0
        keys_before = pad(is_key.view(-1, 2 * half).cumsum(1, dtype=torch.int32), (1, 0))
        sums = rows.new_zeros(len(members) // (2 * half), 2 * half + 1, 2 * m)
        keyed = rows.index_select(0, torch.where(is_key, members, num + padding)).view(-1, 2 * half, 2 * m)
        torch.cumsum(keyed, 1, out=sums.narrow(1, 1, 2 * half))
        del keyed
        sums = sums.view(-1, 2 * m)
        # What lies before each query's places in its block counts if the block's lower half is all below its label.
        index = places + (labels_below >> (bit + 1)) * (2 * half + 1)
        takes = (labels_below & half) != 0
        low, high = torch.where(takes, index, 0).view(2, num).unbind()
        at_high = sums.index_select(0, high)
        before_high += at_high
        between += at_high.sub_(sums.index_select(0, low))
        del sums, at_high

        moved = keys_before.view(-1).index_select(0, index)
        places = torch.where(takes, places - moved, moved)
        keys_before = keys_before.narrow(1, 0, 2 * half).reshape(-1)
        place = torch.where(is_key, (everyone & (-2 * half)) + keys_before, (everyone + half) - keys_before)
        members = torch.empty_like(members).index_copy(0, place.long(), members)

    large = pad(weights.cumsum(1), (1, 0)).index_select(1, block << block_bits)
    values += large - before_high.t().narrow(0, 0, m)
    if delta > 0:
        mass, moment = between.t().split(m)
        values += (moment - mass * logits) / (2 * delta) + mass / 2
    return values


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat tensors of one length, in step and piece by piece: what is made of a piece stays in a CPU's cache.

    One piece on an accelerator, where every further one would cost launches.
    """
    size = PIECE if on_cpu(tensors[0]) else max(len(tensors[0]), 1)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def round_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest numbers of ``dtype`` that are not below ``values`` (float64).

    ``x >= round_up(v)`` and ``x >= v`` then say the same for every x of that dtype, so that float32 logits can be
    compared with float64 edges without a float64 copy of them.
    """
    rounded = values.to(dtype)
    return torch.where(
        rounded.double() < values, torch.nextafter(rounded, torch.full_like(rounded, torch.inf)), rounded
    )


class Bucketizer:
    """``torch.searchsorted(edges, values, right=True)``, faster: how many edges are not above each value.

    On a CPU a binary search among thousands of edges mispredicts nearly every branch. Instead, cut the range of the
    edges into equal cells: a table tells how many edges lie in lower cells, and few cells have edges of their own to
    compare with. Computing a cell rounds, but never changes the order of two numbers, so the result is exact.

    Args:
        edges: ``(B,)``, ascending, B >= 1.
        num_values: how many values will be asked for; a table larger than that does not pay.
    """

    def __init__(self, edges: Tensor, num_values: int) -> None:
        self.edges = edges
        self.table: Tensor | None = None
        num_cells = min(CELLS_PER_EDGE * len(edges), MAX_CELLS, num_values)
        if not on_cpu(edges) or num_cells < len(edges):
            return
        self.lowest = edges[0]
        span = (edges[-1] - self.lowest).abs()  # not -0
        self.cells_per_logit = num_cells / span
        if not math.isfinite(span):
            return
        cells = self._cells(edges, num_cells).long()
        inside = torch.zeros(num_cells, dtype=torch.int32)
        inside.index_add_(0, cells, torch.ones_like(cells, dtype=torch.int32))
        lower = inside.cumsum(0, dtype=torch.int32).sub_(inside)
        # Cells with edges of their own are marked by a negative number.
        self.table = lower.index_copy_(0, cells, -1 - lower.index_select(0, cells))
        self.most_inside = int(inside.max())
        self.padded_edges = pad(edges, (0, 1), value=torch.nan)  # nothing is above the last one

    def _cells(self, values: Tensor, num_cells: int) -> Tensor:
        scaled = (values - self.lowest).mul_(self.cells_per_logit).clamp_(0, num_cells - 1)
        return scaled.nan_to_num_(0).to(torch.int32)  # 0 times infinity, where all edges are one

    def __call__(self, values: Tensor) -> Tensor:
        """int32, of the shape of ``values (n,)``, which have the edges' dtype."""
        if self.table is None:
            return torch.searchsorted(self.edges, values, right=True, out_int32=True)
        below = self.table.index_select(0, self._cells(values, len(self.table)))
        shared = (below < 0).nonzero().squeeze(1)
        rest = values.index_select(0, shared)
        if self.most_inside > MOST_COMPARED:
            found = torch.searchsorted(self.edges, rest, right=True, out_int32=True)
        else:
            found = -1 - below.index_select(0, shared)
            for _ in range(self.most_inside):
                found += rest >= self.padded_edges.index_select(0, found)
        return below.index_copy_(0, shared, found)


class Buckets(NamedTuple):
    """Negatives grouped between edges: ``sizes`` and ``means`` ``(B,)`` float64 (0 for an empty bucket), and for every
    piece of the negatives the buckets it fell into, ``(n,)`` int32."""

    assignments: list[Tensor]
    sizes: Tensor
    means: Tensor

    def spread(self, negatives: Sequence[Tensor], sums: StepSums, linear: bool) -> list[Tensor]:
        """``sums`` of the buckets for every negative, in pieces ``(n,)``: as at its bucket's mean, or linear in it.

        The linear ones overwrite the negatives.
        """
        dtype = negatives[0].dtype
        if not linear:
            values = sums.values.to(dtype)
            return [values.index_select(0, bucket) for bucket in self.assignments]
        # From the mean rounded to the logits' dtype, so that the distance to it loses nothing.
        origins = self.means.to(dtype)
        values = (sums.values + sums.slopes * (origins.double() - self.means)).to(dtype)
        slopes = sums.slopes.to(dtype)
        return [
            x.sub_(origins.index_select(0, bucket))
            .mul_(slopes.index_select(0, bucket))
            .add_(values.index_select(0, bucket))
            for x, bucket in zip(negatives, self.assignments, strict=True)
        ]


def bucket_negatives(
    negatives: Sequence[Tensor], edges: Tensor, group: ProcessGroup | None = None, lowest_counts: bool = True
) -> Buckets:
    """Group negatives by the edges they lie between (Eq. 12) without sorting them.

    Args:
        negatives: pieces ``(n,)`` of float32 or float64 logits, at least one.
        edges: ``(B - 1,)`` float64, ascending; a negative on an edge belongs to the bucket above it.
        group: Processes whose negatives share the buckets, all with the same edges. Sizes and means are of all of
            them, assignments of one's own.
        lowest_counts: False if what is below all edges takes no part: whatever it is, it is assigned to bucket 0, but
            the size and the mean of bucket 0 are 0, on every process.
    """
    bucketize = Bucketizer(round_up(edges, negatives[0].dtype), sum(map(len, negatives)))
    statistics = torch.zeros(2, len(edges) + 1, dtype=torch.float64, device=edges.device)
    sizes, sums = statistics.unbind()
    assignments = []
    for x in negatives:
        bucket = bucketize(x)
        assignments.append(bucket)
        bucket = bucket.long()
        sizes.scatter_add_(0, bucket, sizes.new_ones(1).expand(len(x)))
        sums.scatter_add_(0, bucket, x.double())
    if not lowest_counts:
        statistics.select(1, 0).zero_()
    sizes, sums = add_up(statistics, group).unbind()
    return Buckets(assignments, sizes, sums.div_(sizes.clamp(min=1)))


def clamp_between(means: Tensor, edges: Tensor) -> Tensor:
    """Means of buckets, none of which has left its bucket by rounding, or H would count it on the wrong side for
    ``delta = 0``; an empty bucket gets a place between its edges too, so that they are ascending."""
    below = torch.nextafter(edges, torch.full_like(edges, -torch.inf))
    unbounded = edges.new_full((1,), torch.inf)
    means = torch.minimum(means, torch.cat([below, unbounded]))
    return torch.maximum(means, torch.cat([-unbounded, edges]))
