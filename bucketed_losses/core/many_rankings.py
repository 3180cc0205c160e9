"""AP and RS Loss of many rankings in one computation: every group of entries is ranked by itself.

This is :mod:`bucketed_losses.core.few_launches` with a value for each group. It also runs on a CPU. The number of
operations does not depend on the number of groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .autograd import FullUpdate
from .bucket_sums import bucket_sums
from .grouped_ranking import rank_groups
from .negated import Negated, negate
from .pair_sums import pair_sums
from .sorting_update import sorting_update


class Groups(NamedTuple):
    """The rankings that entries belong to."""

    of_entries: Tensor
    """The group of each entry, ``(n,)`` int64."""
    num: int
    """G, the number of groups, including groups without entries."""


def as_groups(groups: Tensor | None, num_groups: int | None) -> Groups | None:
    """The groups of checked arguments, flattened; None if all entries are ranked together."""
    return None if groups is None or num_groups is None else Groups(groups.reshape(-1), num_groups)


def rank_each_group(
    logits: Tensor,
    targets: Tensor,
    groups: Groups,
    delta: float,
    positive_indices: Tensor,
    exact: bool,
    sort: bool,
    ious: Tensor | None = None,
) -> FullUpdate:
    """Values ``(G,)`` and Identity Updates; 0 for a group without positives.

    Args:
        logits: ``(n,)``, any floating-point dtype.
        targets: ``(n,)``, any real dtype.
        groups: Of the entries.
        delta: Half-width of H.
        positive_indices: ``(P,)`` int64.
        exact: The edges of the buckets are the positives +- delta instead of the positives.
        sort: Compute the sorting error too.
        ious: ``(P,)`` in the order of ``positive_indices``; None reads them from the targets.
    """
    dtype = logits.dtype if logits.dtype == torch.float64 else torch.float32
    entries = negate(logits, targets, positive_indices, groups.of_entries)
    own, one = groups.of_entries.index_select(0, entries.indices), entries.constants[2]
    nonfinite = bucket_sums(groups.of_entries, entries.notes, one, groups.num)[1, 1:]
    if ious is not None:
        nonfinite = nonfinite.index_add(
            0, groups.of_entries.index_select(0, positive_indices), (ious * 0).to(nonfinite.dtype)
        )
    num_positives = bucket_sums(own, None, one, groups.num)[0, 1:].index_select(0, own)  # P of each positive's group
    own_nonfinite = nonfinite.index_select(0, own)
    if len(own) == 0:
        none = logits.new_zeros(0, dtype=dtype)
        grad = logits.new_zeros(len(logits), dtype=dtype)
        return FullUpdate(
            (nonfinite, nonfinite.clone())[: 1 + sort],
            grad,
            positive_indices,
            none if sort else None,
            groups.of_entries,
        )
    # What is not finite must not reach the sums over all groups. It is added to the values and gradients of its own.
    entries = Negated(entries.positives.nan_to_num(0, 0, 0), *entries[1:])
    ranked = rank_groups(entries, groups.of_entries, own, groups.num, delta, exact)
    weights = (ranked.ranks * num_positives).reciprocal()
    errors = ranked.false_positives * weights  # l_R(i) / P, Eq. 9
    grad = ranked.share(weights).index_add_(0, entries.indices, errors, alpha=-1)
    grad = grad.add_(nonfinite.index_select(0, groups.of_entries)).to(dtype)
    ranking = nonfinite.index_add(0, own, errors)
    if not sort:
        return FullUpdate((ranking,), grad, entries.indices, None, groups.of_entries)
    ious = targets.index_select(0, entries.indices) if ious is None else ious.index_select(0, entries.order)
    pairs = pair_sums(entries.positives, ious.nan_to_num(0, 0, 0), entries.constants, delta, own)
    sorting, sorting_grad = sorting_update(pairs, nonfinite=entries.constants[1])  # 0: nothing in pairs is NaN
    return FullUpdate(
        (ranking, nonfinite.index_add(0, own, sorting / num_positives)),
        grad,
        entries.indices,
        (sorting_grad / num_positives + own_nonfinite).to(dtype),
        groups.of_entries,
    )
