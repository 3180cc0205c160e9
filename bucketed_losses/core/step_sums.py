"""The smoothed step ``H`` (Eq. 2), and sums of it in near-linear time and linear memory.

``H(key - query)`` is piecewise linear in the query: 0, then a ramp of width ``2 delta``, then 1. With the keys sorted,
the keys on the ramp of a query lie next to each other (its :class:`Band`). A sum of steps over all keys is then a sum
over the keys beyond the band, where H is 1, plus mass and moment of the keys in the band, all read off prefix sums. No
``(queries, keys)`` matrix is made. All tensors are float64, of the size of the positives or of the buckets.

Values are gathered by ``index_select``, because ``tensor[index]`` does not run on fake CUDA tensors, with which the
tests show that nothing here makes the host wait.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


def smoothed_step(x: Tensor, delta: float) -> Tensor:
    """``H(x)`` of Eq. 2: ``clamp(x / 2 delta + 1/2, 0, 1)``, or ``[x >= 0]`` for ``delta = 0``; any shape."""
    if delta == 0:
        return (x >= 0).to(x.dtype)
    return (x / (2 * delta) + 0.5).clamp(0, 1)


class Band(NamedTuple):
    """For each query, the range ``[low, high)`` of keys for which H is neither 0 nor 1; ``(q,)`` int64 both."""

    low: Tensor
    high: Tensor


class StepSums(NamedTuple):
    """Sums of steps at each query, and their derivatives with respect to the query; ``(..., q)`` float64 both."""

    values: Tensor
    slopes: Tensor


def band_above(keys: Tensor, queries: Tensor, delta: float) -> Band:
    """The band of ``H(key - query)``, which rises from 0 to 1 along ascending keys."""
    return Band(*torch.searchsorted(keys, torch.stack([queries - delta, queries + delta])))


def band_below(keys: Tensor, queries: Tensor, delta: float) -> Band:
    """The band of ``H(query - key)``, which falls from 1 to 0 along ascending keys."""
    # right=True, because H(0) = 1 for delta = 0: a key that equals the query counts.
    return Band(*torch.searchsorted(keys, torch.stack([queries - delta, queries + delta]), right=True))


def sums_above(keys: Tensor, weights: Tensor, queries: Tensor, band: Band, delta: float) -> StepSums:
    """``sum_k weights_k H(keys_k - query)`` for every query, in O(n + q).

    Args:
        keys: ``(n,)`` float64, ascending.
        weights: ``(..., n)`` float64; leading dimensions are separate sums over the same keys.
        queries: ``(q,)`` float64.
        band: :func:`band_above` of these keys and queries.
        delta: Half-width of the step.
    """
    # The sums start at the highest key. If they started at the lowest, the few entries above a well-ranked positive
    # would be the difference of two huge numbers.
    prefix = [pad(values.flip(-1).cumsum(-1).flip(-1), (0, 1)) for values in _mass_and_moment(keys, weights, delta)]
    return _step_sums(prefix, queries, ones=band.high, zeros=band.low, sign=1, delta=delta)


def sums_below(keys: Tensor, weights: Tensor, queries: Tensor, band: Band, delta: float) -> StepSums:
    """``sum_k weights_k H(query - keys_k)`` for every query; arguments as in :func:`sums_above`, with band_below."""
    prefix = [pad(values.cumsum(-1), (1, 0)) for values in _mass_and_moment(keys, weights, delta)]
    return _step_sums(prefix, queries, ones=band.low, zeros=band.high, sign=-1, delta=delta)


def _mass_and_moment(keys: Tensor, weights: Tensor, delta: float) -> list[Tensor]:
    return [weights] if delta == 0 else [weights, weights * keys]


def _step_sums(prefix: list[Tensor], queries: Tensor, ones: Tensor, zeros: Tensor, sign: int, delta: float) -> StepSums:
    """Sums of steps from prefix sums of mass and moment, which start on the side of the keys where H is 1.

    Args:
        prefix: Of the mass and, for ``delta > 0``, of the moment; ``(..., n + 1)`` each.
        queries: ``(q,)``.
        ones: Place up to which H is 1 for each query, ``(q,)``.
        zeros: Place from which H is 0 for each query, ``(q,)``.
        sign: 1 for ``H(key - query)``, -1 for ``H(query - key)``.
        delta: Half-width of the step.
    """
    mass = prefix[0].index_select(-1, ones)
    if delta == 0:
        return StepSums(mass, torch.zeros_like(mass))
    band_mass = prefix[0].index_select(-1, zeros) - mass
    band_moment = prefix[1].index_select(-1, zeros) - prefix[1].index_select(-1, ones)
    # In the band, H = sign * (key - query) / (2 delta) + 1/2.
    slopes = band_mass * (-sign / (2 * delta))
    values = torch.addcmul(mass, slopes, queries)
    values.add_(band_moment, alpha=sign / (2 * delta)).add_(band_mass, alpha=0.5)
    return StepSums(values, slopes)
