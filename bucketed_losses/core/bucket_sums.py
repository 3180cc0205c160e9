"""How many entries a bucket has and the sum of their values, added up by an accelerator.

An accelerator adds many entries at once, but additions to one number wait for each other. Most negatives may be in one
bucket, so every bucket has several places, and neighbouring entries use different ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import devices

LEAST_ENTRIES = 2**15
"""Fewer entries than this use one place for each bucket."""

MOST_PLACES = 32
"""Most places for each bucket: the number of entries that an accelerator's warp adds at once."""


def bucket_sums(buckets: Tensor, values: Tensor | None, one: Tensor, num_buckets: int) -> Tensor:
    """Sizes and sums of buckets, with an empty bucket before the first one.

    Args:
        buckets: The bucket of each entry, ``(n,)`` int64.
        values: ``(n,)`` float64, or None if only the sizes are needed.
        one: ``(1,)`` float64, the number 1.
        num_buckets: B.

    Returns:
        ``(2, 1 + B)`` float64, the sizes and the sums; ``(1, 1 + B)`` without values.
    """
    columns = [one.expand_as(buckets)] if values is None else [one.expand_as(buckets), values]
    num, places = len(buckets), _num_places(len(buckets), num_buckets)
    sums = torch.zeros(len(columns), 1 + num_buckets, places, dtype=torch.float64, device=buckets.device)
    rest = num % places
    for column, total in zip(columns, sums.narrow(1, 1, num_buckets), strict=True):
        index = buckets.narrow(0, 0, num - rest).view(-1, places)
        total.scatter_add_(0, index, column.narrow(0, 0, num - rest).view_as(index))
        if rest:
            total.select(1, 0).scatter_add_(0, buckets.narrow(0, num - rest, rest), column.narrow(0, num - rest, rest))
    return sums.squeeze(-1) if places == 1 else sums.sum(-1)


def padding(num_entries: int, num_buckets: int) -> int:
    """How many more entries would use all places equally; this saves the operations that add up the rest."""
    return -num_entries % _num_places(num_entries, num_buckets)


def _num_places(num_entries: int, num_buckets: int) -> int:
    """How many places each bucket has."""
    if num_entries < LEAST_ENTRIES:
        return 1
    return max(1, min(MOST_PLACES, devices.MOST_ELEMENTS // (2 * num_buckets + 2)))
