"""Sums of the smoothed step ``H`` (Eq. 2) in near-linear time and linear memory.

``H(key - query)`` is piecewise linear in the query. With the keys sorted, a sum of steps over all keys is therefore a
difference of prefix sums at the two places where ``query - delta`` and ``query + delta`` fall among the keys; no
``(queries, keys)`` matrix is ever made. Everything here is float64 and of the size of the positives; the negatives
enter once, through :func:`bucket_negatives`.

Gathering is written as ``index_select``: unlike ``tensor[index]`` it also runs on fake CUDA tensors, with which the
tests show that nothing here waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DENSE_MAX_POSITIVES = 1024
"""Up to this many positives a dense P x P block beats the bitwise decomposition of :func:`dominance_sums`."""


def smoothed_step(x: Tensor, delta: float) -> Tensor:
    """``H(x)`` of Eq. 2: ``clamp(x / 2 delta + 1/2, 0, 1)``, or ``[x >= 0]`` for ``delta = 0``; any shape."""
    if delta == 0:
        return (x >= 0).to(x.dtype)
    return (x / (2 * delta) + 0.5).clamp(0, 1)


class StepSums(NamedTuple):
    """Sums of steps at each query and their derivative with respect to that query, both ``(..., num_queries)``."""

    values: Tensor
    slopes: Tensor


class _Band(NamedTuple):
    """For each query: the keys ``[low, high)`` in which H is fractional and the end of the keys that count at all."""

    low: Tensor
    high: Tensor
    end: Tensor


def _suffix_sums(values: Tensor) -> Tensor:
    """``out[..., i] = sum(values[..., i:])`` with ``out[..., n] = 0``.

    Summed from the top, so that the few entries above a well-ranked positive are not the difference of two huge sums.
    """
    return torch.nn.functional.pad(values.flip(-1).cumsum(-1).flip(-1), (0, 1))


def _sums_in_band(keys: Tensor, weights: Tensor, queries: Tensor, band: _Band, delta: float) -> StepSums:
    mass = _suffix_sums(weights)
    mass_high = mass.index_select(-1, band.high)
    values = mass_high - mass.index_select(-1, band.end)
    if delta == 0:
        return StepSums(values, torch.zeros_like(values))
    moment = _suffix_sums(weights * keys)
    band_mass = mass.index_select(-1, band.low) - mass_high
    band_moment = moment.index_select(-1, band.low) - moment.index_select(-1, band.high)
    slopes = band_mass / (2 * delta)
    return StepSums(values + band_moment / (2 * delta) - slopes * queries + band_mass / 2, -slopes)


def sums_above(keys: Tensor, weights: Tensor, queries: Tensor, delta: float) -> StepSums:
    """``sum_k weights_k H(keys_k - query)`` for every query, in O((n + q) log n).

    Args:
        keys: ``(n,)`` float64, ascending.
        weights: ``(..., n)`` float64; leading dimensions are separate sums over the same keys.
        queries: ``(q,)`` float64.
        delta: half-width of the step.
    """
    end = torch.full_like(queries, len(keys), dtype=torch.int64)
    band = _Band(torch.searchsorted(keys, queries - delta), torch.searchsorted(keys, queries + delta), end)
    return _sums_in_band(keys, weights, queries, band, delta)


def sums_below(keys: Tensor, weights: Tensor, queries: Tensor, delta: float) -> StepSums:
    """``sum_k weights_k H(query - keys_k)`` for every query; arguments as in :func:`sums_above`."""
    values, slopes = sums_above(-keys.flip(-1), weights.flip(-1), -queries, delta)
    return StepSums(values, -slopes)


def dominance_sums(logits: Tensor, labels: Tensor, weights: Tensor, delta: float) -> Tensor:
    """``sum_k weights_k H(s_k - s_i) [t_k < t_i]`` for every i: the sums behind Eq. S.4 and S.7.

    Up to :data:`DENSE_MAX_POSITIVES` positives by a dense block, above by :func:`dominance_sums_by_bits`.

    Args:
        logits: ``(P,)`` float64, ascending.
        labels: ``(P,)``, in the logits' order.
        weights: ``(m, P)`` float64, m separate sums.
        delta: half-width of the step.

    Returns:
        ``(m, P)`` float64.
    """
    if len(logits) > DENSE_MAX_POSITIVES:
        return dominance_sums_by_bits(logits, labels, weights, delta)
    steps = smoothed_step(logits.unsqueeze(1) - logits.unsqueeze(0), delta)  # (k, i): H(s_k - s_i)
    return weights @ (steps * (labels.unsqueeze(1) < labels.unsqueeze(0)))


def dominance_sums_by_bits(logits: Tensor, labels: Tensor, weights: Tensor, delta: float) -> Tensor:
    """:func:`dominance_sums` in O(P log^2 P) time and O(P) memory, exact with ties.

    Labels are ranked densely. Two different ranks first differ, from the top, at exactly one bit; the smaller one has
    a 0 there, and both share all higher bits. So for each bit: group by the higher bits, let the members with bit 0 be
    keys and those with bit 1 queries, and take ordinary sums of steps inside each group.
    """
    num = len(logits)
    sorted_labels, label_order = labels.sort()
    rises = sorted_labels.diff(prepend=sorted_labels.narrow(0, 0, 1)) != 0
    ranks = torch.zeros_like(label_order).scatter(0, label_order, rises.cumsum(0))

    # Where q - delta and q + delta fall among all logits. Inside a group the same places are found by integers: the
    # members of a group keep their order, so (group, place among all logits) is a sorted key.
    low = torch.searchsorted(logits, logits - delta)
    high = torch.searchsorted(logits, logits + delta)
    place = torch.arange(num, device=logits.device)
    total = torch.zeros_like(weights)
    for bit in range(max(num - 1, 1).bit_length()):
        group = (ranks >> (bit + 1)) * (num + 1)
        is_query = (ranks >> bit) & 1
        composite, members = (group + place).sort()
        band = _Band(
            *(torch.searchsorted(composite, group + bound) for bound in (low, high, torch.full_like(low, num)))
        )
        key_weights = weights.index_select(-1, members) * (1 - is_query.index_select(0, members))
        keys = logits.index_select(0, members)
        total += _sums_in_band(keys, key_weights, logits, band, delta).values * is_query
    return total


class Buckets(NamedTuple):
    """Negatives grouped between edges: ``assignment (N,)`` int64, ``sizes`` and ``means`` ``(B,)`` float64."""

    assignment: Tensor
    sizes: Tensor
    means: Tensor


def round_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest numbers of ``dtype`` that are not below ``values`` (float64).

    ``x >= round_up(v)`` and ``x >= v`` then say the same for every x of that dtype, so that float32 logits can be
    compared with float64 edges without a float64 copy of them.
    """
    rounded = values.to(dtype)
    return torch.where(
        rounded.double() < values, torch.nextafter(rounded, torch.full_like(rounded, torch.inf)), rounded
    )


def bucket_negatives(negatives: Tensor, edges: Tensor) -> Buckets:
    """Group negatives by the edges they lie between (Eq. 12) without sorting them, in O(N log B).

    Args:
        negatives: ``(N,)`` float32 or float64 logits.
        edges: ``(B - 1,)`` float64, ascending; a negative on an edge belongs to the bucket above it.
    """
    assignment = torch.searchsorted(round_up(edges, negatives.dtype), negatives, right=True)
    num_buckets = len(edges) + 1
    empty = torch.zeros(num_buckets, dtype=torch.float64, device=negatives.device)
    sizes = empty.scatter_add(0, assignment, empty.new_ones(1).expand(len(negatives)))
    means = empty.scatter_add(0, assignment, negatives.double()) / sizes.clamp(min=1)
    # A mean must not leave its bucket by rounding, or H would count it on the wrong side for delta = 0; an empty
    # bucket gets a place between its edges too, so that the means stay sorted.
    below = torch.nextafter(edges, torch.full_like(edges, -torch.inf))
    unbounded = edges.new_full((1,), torch.inf)
    means = torch.minimum(means, torch.cat([below, unbounded]))
    means = torch.maximum(means, torch.cat([-unbounded, edges]))
    return Buckets(assignment, sizes, means)
