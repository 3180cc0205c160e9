"""AP Loss and RS Loss, exact or bucketed: from logits and targets to values that have a gradient.

AP Loss is the ranking error (Eq. 3); RS Loss is the ranking and the sorting error (Eq. 10). The published losses and
the exact ones differ in the edges of the buckets alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import devices
from .autograd import ErrorDrivenUpdate, FullUpdate, with_full_gradient, with_gradient
from .distributed import Group, gather_positives, num_processes, resolve
from .entries import find_positives, flatten
from .few_launches import rank_in_few_launches
from .identity_update import identity_update
from .many_rankings import Groups, rank_each_group
from .negatives import relevant_negatives
from .positives import rank_positives
from .sparse_targets import SparseTargets, as_dense


class RankSort(NamedTuple):
    """The two parts of RS Loss, scalars of the logits' dtype (float32 for half precision)."""

    ranking: Tensor
    sorting: Tensor

    @property
    def total(self) -> Tensor:
        """The loss, ``ranking + sorting``."""
        return self.ranking + self.sorting


def rank_and_sort(
    logits: Tensor,
    targets: Tensor | SparseTargets,
    delta: float,
    positive_indices: Tensor | None,
    group: Group,
    exact: bool,
    sort: bool,
    groups: Groups | None = None,
) -> RankSort:
    """AP Loss (the ranking part) or RS Loss (both parts); arguments as in :func:`bucketed_losses.functional.rs_loss`.

    A CPU touches as few numbers as possible; an accelerator that ranks alone takes as few operations as possible.

    Args:
        logits: Any shape.
        targets: Same shape, or sparse.
        delta: Half-width of H.
        positive_indices: ``(P,)`` int64 into the flattened logits, or None to find them.
        group: Processes whose logits are ranked together.
        exact: The edges of the buckets are the positives +- delta instead of the positives.
        sort: Compute the sorting part; otherwise it has no meaning.
        groups: Rank each group by itself; the parts are ``(groups.num,)`` then.
    """
    devices.check_determinism(logits)
    processes = resolve(group)
    targets, positive_indices, ious = as_dense(targets, positive_indices, logits)
    if positive_indices is None:
        positive_indices = find_positives(targets.reshape(-1))
    if groups is not None or (processes is None and len(positive_indices) and not devices.on_cpu(logits)):
        x, t = logits.detach().reshape(-1), targets.detach().reshape(-1)
        t = t.float() if t.dtype == torch.bool else t
        if groups is None:
            full = rank_in_few_launches(x, t, delta, positive_indices, exact, sort, ious)
        else:
            full = rank_each_group(x, t, groups, delta, positive_indices, exact, sort, ious)
        values = with_full_gradient(logits, full)
        return RankSort(values[0], values[-1])
    entries = flatten(logits, targets)
    x, t = entries.logits, entries.targets
    own_logits = x.index_select(0, positive_indices)
    own_ious = t.index_select(0, positive_indices) if ious is None else ious
    nonfinite = entries.nonfinite if ious is None else entries.nonfinite + 0 * ious.sum()
    gathered = gather_positives(own_logits, own_ious, nonfinite, processes)
    nonfinite = gathered.nonfinite
    if len(gathered.logits) == 0:
        none = x.new_zeros(0)
        if processes is None:  # torch.func transforms what takes an accelerator's way
            # Two tensors: torch.compile refuses the same one twice.
            full = FullUpdate((nonfinite, nonfinite.clone()), torch.zeros_like(x), positive_indices, none)
            return RankSort(*with_full_gradient(logits, full))
        update = ErrorDrivenUpdate((nonfinite, nonfinite.clone()), positive_indices, (none, none))
        return RankSort(*with_gradient(logits, update))

    positives = rank_positives(gathered.logits, gathered.values, delta, sort)
    negatives = relevant_negatives(x, t, positives.floor)
    result = identity_update(positives, negatives.logits, delta, exact, processes)
    own = result.positive_grads.narrow(1, gathered.start, len(positive_indices)).to(x.dtype) + nonfinite
    update = ErrorDrivenUpdate(
        values=(result.ranking.to(x.dtype) + nonfinite, result.sorting.to(x.dtype) + nonfinite),
        positive_indices=positive_indices,
        positive_grads=tuple(own.unbind()),
        negative_indices=negatives.indices,
        negative_grads=result.negative_grads,
        num_processes=num_processes(processes),
    )
    return RankSort(*with_gradient(logits, update))
