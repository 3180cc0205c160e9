"""AP and RS Loss on an accelerator, where an operation costs its launch, and waiting for a result costs most.

The values are those of :mod:`bucketed_losses.core.identity_update`. The host reads nothing: the number of positives
determines the size of every tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .autograd import FullUpdate
from .negated import negate
from .pair_sums import pair_sums
from .ranking_sums import rank
from .sorting_update import sorting_update


def rank_in_few_launches(
    logits: Tensor,
    targets: Tensor,
    delta: float,
    positive_indices: Tensor,
    exact: bool,
    sort: bool,
    ious: Tensor | None = None,
) -> FullUpdate:
    """Values and Identity Update (Eq. 8, 14) of the ranking error, and of the sorting error if ``sort``.

    Args:
        logits: ``(n,)``, any floating-point dtype.
        targets: ``(n,)``, any real dtype.
        delta: Half-width of H.
        positive_indices: ``(P,)`` int64, P >= 1.
        exact: The edges of the buckets are the positives +- delta instead of the positives.
        sort: Compute the sorting error too.
        ious: ``(P,)`` in the order of ``positive_indices``; None reads them from the targets.
    """
    dtype = logits.dtype if logits.dtype == torch.float64 else torch.float32
    num_positives = len(positive_indices)
    entries = negate(logits, targets, positive_indices)
    nonfinite = entries.notes.sum()
    if ious is not None:
        nonfinite = nonfinite + ious.sum() * 0
    ranked = rank(entries, delta, exact)
    # A NaN among the ranks becomes NaN in every value and gradient.
    weights = torch.add(nonfinite, ranked.ranks, alpha=num_positives).reciprocal()
    errors = ranked.false_positives * weights  # l_R(i) / P, Eq. 9
    grad = ranked.share(weights).index_add_(0, entries.indices, errors, alpha=-1).to(dtype)
    if not sort:
        return FullUpdate((errors.sum(),), grad, entries.indices)
    ious = targets.index_select(0, entries.indices) if ious is None else ious.index_select(0, entries.order)
    sorting, sorting_grad = sorting_update(pair_sums(entries.positives, ious, entries.constants, delta), nonfinite)
    return FullUpdate((errors.sum(), sorting.mean()), grad, entries.indices, (sorting_grad / num_positives).to(dtype))
