"""Sums over the positives that rank above a positive although their IoU is smaller (Eq. S.4, S.7)::

    sum_k w_k H(s_k - s_i) [t_k < t_i]    for every positive i

Written out, this takes P^2 terms. :func:`dominance_sums` takes O(P log P) time and O(P) memory, and is exact with ties.

**The blocks of a query.** Arrange the positives by IoU. The ``f`` positives whose IoU is below that of a query are the
first ``f`` in this arrangement, and the binary digits of ``f`` divide them into aligned blocks, one of ``2^b``
positives for each digit 1. An example of five positives::

    place by IoU    0    1    2    3    4
    IoU            .1   .3   .3   .6   .8
    f               0    1    1    3    4        (how many IoUs are smaller)

    f = 3 = 2 + 1:  block {0, 1} of size 2, then block {2} of size 1        (.1 .3 | .3)
    f = 4 = 4:      block {0, 1, 2, 3} of size 4                            (.1 .3 .3 .6)

**The sum over one block.** With the members of a block in the order of their logits, the sum of steps is read off
prefix sums at the two places of ``s_i - delta`` and ``s_i + delta`` among them, as in
:mod:`bucketed_losses.core.step_sums`.

**The descent.** Begin with one block of all positives, in the order of their logits, where the two places of each query
are known. Then, from the largest blocks to the smallest, divide each block into its lower half and its upper half by
IoU. A query whose digit is 1 takes the sum over the lower half and moves on to the upper half; a query whose digit is 0
moves on to the lower half. Its places in the half are counted: they are the numbers of members of that half before its
places in the block. This is a wavelet matrix (Claude, Navarro and Ordonez, "The wavelet matrix", 2015).

**The smallest blocks.** What the lowest digits of ``f`` say, up to ``2^block_bits`` members, is compared one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .step_sums import Band, smoothed_step


class IoUOrder(NamedTuple):
    """Positives by their IoUs."""

    below: Tensor
    """How many positives have a smaller IoU than each, ``(P,)`` int64: the f of this module."""
    by_iou: Tensor
    """The indices of the positives in ascending order of their IoUs, ``(P,)`` int64."""


def dominance_sums(
    logits: Tensor, order: IoUOrder, weights: Tensor, band: Band, delta: float, block_bits: int | None = None
) -> Tensor:
    """``sum_k w_k H(s_k - s_i) [t_k < t_i]`` for every i.

    Args:
        logits: ``(P,)`` float64, ascending.
        order: Of the IoUs t.
        weights: ``(m, P)`` float64, for m separate sums.
        band: ``band_above(logits, logits, delta)``.
        delta: Half-width of the step.
        block_bits: Up to ``2^block_bits`` members are compared one by one. Fewer bits cost more passes over P numbers,
            more bits cost P 2^block_bits comparisons. By default all, for up to 256 positives; 2^17 comparisons, for
            up to 16384; and blocks of 8 above.

    Returns:
        ``(m, P)`` float64.
    """
    num, m = len(logits), len(weights)
    bits = max((num - 1).bit_length(), 1)
    if block_bits is None:
        block_bits = bits if bits <= 8 else max(17 - bits, 3)
    # Arranged by IoU, and padded to whole blocks with entries of weight 0 behind all others.
    padding = (1 << max(bits, block_bits)) - num
    keys = pad(logits.index_select(0, order.by_iou), (0, padding))
    weights = pad(weights.index_select(1, order.by_iou), (0, padding))

    smallest = order.below >> block_bits  # the smallest block that contains place f
    values = _compare_in_smallest_blocks(logits, order.below, smallest, keys, weights, delta, block_bits)
    if bits <= block_bits:
        return values
    all_at_high, in_band = _descend(order, keys, weights, band, bits, block_bits)
    # The larger blocks of a query are everything before its smallest block. H is 1 above the high place.
    larger = pad(weights.cumsum(1), (1, 0)).index_select(1, smallest << block_bits)
    values += larger - all_at_high.t().narrow(0, 0, m)
    if delta > 0:
        mass, moment = in_band.t().split(m)
        values += (moment - mass * logits) / (2 * delta) + mass / 2
    return values


def _compare_in_smallest_blocks(
    logits: Tensor, below: Tensor, smallest: Tensor, keys: Tensor, weights: Tensor, delta: float, block_bits: int
) -> Tensor:
    """The sums ``(m, P)`` over the members of each query's smallest block that lie before its place f."""
    size = 1 << block_bits
    is_below = torch.arange(size, device=logits.device) < (below - (smallest << block_bits)).unsqueeze(1)
    members = keys.view(-1, size).index_select(0, smallest)
    steps = smoothed_step(members - logits.unsqueeze(1), delta) * is_below
    blocks = weights.view(len(weights), -1, size)
    return torch.stack([(steps * weight.index_select(0, smallest)).sum(1) for weight in blocks])


def _descend(
    order: IoUOrder, keys: Tensor, weights: Tensor, band: Band, bits: int, block_bits: int
) -> tuple[Tensor, Tensor]:
    """Mass and moment of each query's larger blocks, ``(P, 2 m)`` both: before its high place, and between its places.

    Args:
        order: Of the IoUs.
        keys: Logits by IoU, padded.
        weights: ``(m, P + padding)``, by IoU.
        band: The places of each query among all logits.
        bits: The largest halves have ``2^(bits - 1)`` members.
        block_bits: The smallest halves have ``2^block_bits``.
    """
    num, num_padded, m = len(order.below), len(keys), len(weights)
    # Mass and moment of every member, and a last row of zeros to read for entries that do not count.
    rows = pad(torch.stack([*weights, *(weights * keys)], dim=1), (0, 0, 0, 1))
    before_high, between = rows.new_zeros(2, num, 2 * m)
    slots = torch.arange(num_padded, dtype=torch.int32, device=keys.device)
    # The members (places by IoU) in the order of logits, block by block; at first there is one block.
    members = slots.index_copy(0, order.by_iou, slots.narrow(0, 0, num))
    below = order.below.to(torch.int32).repeat(2)
    places = torch.cat(band).to(torch.int32)  # the low places of all queries, then the high ones
    for bit in reversed(range(block_bits, bits)):
        half = 1 << bit
        is_lower = (members & half) == 0
        # Row b * (2 half + 1) + p holds what lies before place p of block b.
        sums = _prefix_sums_of_lower_halves(rows, members, is_lower, half)
        lower_before = pad(is_lower.view(-1, 2 * half).cumsum(1, dtype=torch.int32), (1, 0))
        row = places + (below >> (bit + 1)) * (2 * half + 1)
        takes = (below & half) != 0

        low, high = torch.where(takes, row, 0).view(2, num).unbind()  # row 0 is 0
        at_high = sums.index_select(0, high)
        before_high += at_high
        between += at_high.sub_(sums.index_select(0, low))
        del sums, at_high

        moved = lower_before.view(-1).index_select(0, row)
        places = torch.where(takes, places - moved, moved)
        members = _divide_blocks(members, is_lower, lower_before, slots, half)
    return before_high, between


def _prefix_sums_of_lower_halves(rows: Tensor, members: Tensor, is_lower: Tensor, half: int) -> Tensor:
    """Mass and moment of the lower half's members before each place of each block; ``(blocks * (2 half + 1), 2 m)``."""
    width = rows.shape[1]
    counted = rows.index_select(0, torch.where(is_lower, members, len(rows) - 1)).view(-1, 2 * half, width)
    sums = rows.new_zeros(len(counted), 2 * half + 1, width)
    torch.cumsum(counted, 1, out=sums.narrow(1, 1, 2 * half))
    return sums.view(-1, width)


def _divide_blocks(members: Tensor, is_lower: Tensor, lower_before: Tensor, slots: Tensor, half: int) -> Tensor:
    """The members with each block of ``2 half`` divided into its halves, each half still in the order of logits."""
    lower_before = lower_before.narrow(1, 0, 2 * half).reshape(-1)
    first_of_block = slots & (-2 * half)
    # An upper member moves to the upper half's start plus the upper members before it.
    slot = torch.where(is_lower, first_of_block + lower_before, (slots + half) - lower_before)
    return torch.empty_like(members).index_copy(0, slot.long(), members)
