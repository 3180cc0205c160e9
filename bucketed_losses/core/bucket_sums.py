"""How many entries a bucket has and the sum of their values, added up by an accelerator.

An accelerator adds many entries at once, but additions to one number, and to numbers that lie next to each other in
memory, wait for each other. Most negatives may be in one bucket, so every bucket has up to 1,024 places, and entries
that are added at the same time use different ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import devices

LEAST_ENTRIES = 2**15
"""Fewer entries than this use one place for each bucket."""

MOST_PLACES = 1024
"""Most places for each bucket."""


def num_places(num_entries: int, num_buckets: int) -> int:
    """How many places each bucket should have: as many as memory allows, in proportion to the entries.

    Compiled code does not depend on the number of entries, because a compiler would have to reason about it.
    """
    if num_entries < LEAST_ENTRIES:
        return 1
    most = devices.MOST_ELEMENTS
    if not devices.is_compiling():
        most = max(min(most, 4 * num_entries), num_entries)
    return max(1, min(MOST_PLACES, most // (2 * num_buckets + 2)))


def bucket_sums(
    buckets: Tensor, values: Tensor | None, one: Tensor, num_buckets: int, places: int | None = None
) -> Tensor:
    """Sizes and sums of buckets, with an empty bucket before the first one.

    Args:
        buckets: The bucket of each entry, ``(n,)`` int64.
        values: ``(n,)`` float64, or None if only the sizes are needed.
        one: ``(1,)`` float64, the number 1.
        num_buckets: B.
        places: Of each bucket; None for :func:`num_places`. A divisor of n saves the operations that add up the rest.

    Returns:
        ``(2, 1 + B)`` float64, the sizes and the sums; ``(1, 1 + B)`` without values.
    """
    columns = [one.expand_as(buckets)] if values is None else [one.expand_as(buckets), values]
    num = len(buckets)
    places = num_places(num, num_buckets) if places is None else places
    sums = torch.zeros(len(columns), 1 + num_buckets, places, dtype=torch.float64, device=buckets.device)
    rest = num % places
    for column, total in zip(columns, sums.narrow(1, 1, num_buckets), strict=True):
        index = buckets.narrow(0, 0, num - rest).view(-1, places)
        total.scatter_add_(0, index, column.narrow(0, 0, num - rest).view_as(index))
        if rest:
            total.select(1, 0).scatter_add_(0, buckets.narrow(0, num - rest, rest), column.narrow(0, num - rest, rest))
    return sums.squeeze(-1) if places == 1 else sums.sum(-1)
