"""Sums over pairs of positives without the pairs, in a number of operations that hardly depends on the positives.

Arrange the positives by IoU. The ``f`` positives whose IoU is below that of a query are the first f in this
arrangement, and the binary digits of f divide them into blocks of ``2^b`` positives, one for each digit 1
(:mod:`bucketed_losses.core.dominance` has an example). There is a level for each b: all positives, sorted by block, and
by z inside a block. A query reads, at each level where its digit is 1, the mass and the moment of its block up to three
places (:mod:`bucketed_losses.core.ramps`)::

    sum_k H(x_ik) = (z_i + delta) mass - moment    up to z_i + delta
                  - 2 delta mass                   up to the start of the block
                  - (z_i - delta) mass + moment    up to z_i - delta

One sort, one search and one sum serve all levels, and one more level has a single block of all positives. The
transposed sums add at the places what the sums read there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import devices

ROUNDING = 1e-12
"""A sum over smaller IoUs is 0 if it is smaller than this times the largest sum possible: what is left is rounding."""


class Queries(NamedTuple):
    """Up to which places a query reads a block, and what it multiplies that by."""

    keys: Tensor
    """``(P,)`` float64: z, moved so that no gap is wider than 4 delta. H does not notice it, and an outlier then takes
    no digits from the sums of the others."""
    places: Tensor
    """``(r, P)`` int64: how many of all positives lie before each place, ascending by z."""
    factors: Tensor
    """``(m, r, P)`` float64, of the mass and, if delta > 0, of the moment."""


class Levels(NamedTuple):
    """Some of the levels, L of them."""

    members: Tensor
    """``(L, P)`` int64: the positives (by z) in the order of the level."""
    places: Tensor
    """``(L, r P)`` int64: how many members of the level lie before each place of each query; 0 for all places of a
    query that reads nothing at this level."""


class MergeTree:
    """Sums over pairs of positives in O(P log^2 P) time and O(P log P) memory.

    Args:
        z: ``(P,)`` float64, ascending.
        ious: ``(P,)`` float64.
        constants: -1, 0 and 1, ``(3, 1)`` float64.
        delta: Half-width of H.
        starts: The index of the first positive that each query sees, ``(P,)`` int64, or None for 0.
    """

    def __init__(self, z: Tensor, ious: Tensor, constants: Tensor, delta: float, starts: Tensor | None = None) -> None:
        self.queries = _queries(z, constants, delta, starts)
        masses = torch.cat([constants[2:].expand(1, len(z)), ious.unsqueeze(0)])
        self.columns = masses if delta == 0 else torch.cat([masses, masses * self.queries.keys])
        sorted_ious, by_iou = ious.sort()
        smaller, place = torch.searchsorted(sorted_ious, ious), by_iou.argsort()
        self.rounding = ROUNDING * len(z) * (2 * delta if delta > 0 else 1)
        single = 1
        while 1 << single < len(z):  # torch.compile traces such comparisons, but not bit_length
            single += 1
        num_levels = single + 1
        # If all levels together need a larger tensor, some levels follow the others.
        most = max(1, devices.MOST_ELEMENTS // (len(self.columns) * self.queries.places.numel()))
        most = num_levels if most >= num_levels else int(most)
        self.parts = [
            _make_levels(start, min(start + most, num_levels), single, smaller, place, self.queries.places)
            for start in range(0, num_levels, most)
        ]

    def sums(self) -> tuple[Tensor, Tensor]:
        """``sum_k H(x_ik) [1, t_k]`` over all k, and over the k with ``t_k < t_i``; ``(2, P)`` both."""
        parts = [self._read(levels) for levels in self.parts]
        everything = parts[-1][:, -1]
        parts[-1] = parts[-1][:, :-1]
        smaller = parts[0].sum(1)
        for part in parts[1:]:
            smaller = smaller + part.sum(1)
        return everything, smaller * (smaller[0] > self.rounding)

    def _read(self, levels: Levels) -> Tensor:
        """What each query reads at each level, ``(2, L, P)``."""
        num_levels, num = levels.members.shape
        ordered = self.columns.index_select(1, levels.members.view(-1)).view(-1, num_levels, num)
        prefix = pad(ordered, (1, 0)).cumsum(2)
        read = prefix.gather(2, levels.places.unsqueeze(0).expand(len(prefix), -1, -1))
        factors = self.queries.factors
        return (read.view(len(factors), 2, num_levels, -1, num) * factors[:, None, None]).sum((0, 3))

    def transposed(self, weights: Tensor) -> Tensor:
        """``sum_i weights_i H(x_ik) [t_k < t_i]`` for every k, ``(P,)``."""
        added = (self.queries.factors * weights).flatten(1).unsqueeze(1)
        total = torch.zeros(len(added), len(weights), dtype=weights.dtype, device=weights.device)
        for levels in self.parts:
            members, places = levels.members, levels.places
            if levels is self.parts[-1]:
                members, places = members[:-1], places[:-1]  # without the level of a single block
            num_levels, num = members.shape
            sums = torch.zeros(len(added), num_levels, num + 1, dtype=weights.dtype, device=weights.device)
            sums.scatter_add_(2, places.unsqueeze(0).expand(len(added), -1, -1), added.expand(-1, num_levels, -1))
            prefix = sums.cumsum(2)
            beyond = prefix[:, :, -1:] - prefix[:, :, :-1]
            total.index_add_(1, members.reshape(-1), beyond.view(len(added), -1))
        return total[0] if len(total) == 1 else torch.addcmul(total[0], total[1], self.queries.keys)


def _queries(z: Tensor, constants: Tensor, delta: float, starts: Tensor | None) -> Queries:
    if delta == 0:
        places = pad(torch.searchsorted(z, z, right=True).unsqueeze(0), (0, 0, 0, 1))
        if starts is not None:
            places.select(0, 1).copy_(starts)
        return Queries(z, places, constants[::2].flip(0).unsqueeze(0).expand(1, 2, len(z)))
    keys = pad(z.diff().clamp_(max=4 * delta), (1, 0)).cumsum(0)
    around = torch.sub(keys, constants, alpha=delta)  # z + delta, z, z - delta
    places = torch.searchsorted(keys, around)
    start_of_block = places.select(0, 1)
    if starts is None:
        start_of_block.zero_()
    else:
        start_of_block.copy_(starts)
    masses = around * -constants
    masses.select(0, 1).fill_(-2 * delta)
    return Queries(keys, places, torch.stack([masses, constants.expand_as(masses)]))


def _make_levels(start: int, stop: int, single: int, smaller: Tensor, place: Tensor, places: Tensor) -> Levels:
    """The levels from ``start`` to ``stop``.

    Args:
        start: The first level.
        stop: The level after the last one.
        single: The level of a single block, ``2^single >= P``.
        smaller: How many positives have a smaller IoU than each, ``(P,)``: the f of this module.
        place: The place of each positive by IoU, ``(P,)``.
        places: Of the queries among all positives, ``(r, P)``.
    """
    num = len(place)
    stride = 1 << single
    levels = torch.arange(start, stop, device=place.device).unsqueeze(1)
    # A member of block b has the key (b + 1) * stride + its place by z; a query that reads nothing has keys below all.
    by_z = torch.arange(stride, stride + num, device=place.device)
    keys, members = torch.add(by_z, place >> levels, alpha=stride).sort(dim=1)
    block = smaller >> levels
    block *= block & 1  # the block before the last digit 1, plus 1
    if stop > single:
        block.select(0, stop - start - 1).fill_(1)
    queries = torch.add(places, block.unsqueeze(1), alpha=stride)
    return Levels(members, torch.searchsorted(keys, queries.flatten(1)))
