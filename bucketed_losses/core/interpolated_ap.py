"""AP Loss with interpolated precisions, exact: the AP Loss of the published code (Chen et al., Towards Accurate
One-Stage Object Detection with AP-Loss, CVPR 2019), which is not bucketed."""

from __future__ import annotations

import torch
from torch import Tensor

from .alrp import ranks_with_self_as_one
from .autograd import ErrorDrivenUpdate, with_gradient
from .devices import check_determinism
from .distributed import Group, gather_positives, num_processes, resolve
from .entries import find_positives, flatten
from .negatives import count_negatives, relevant_negatives
from .positives import rank_positives
from .sparse_targets import SparseTargets, as_dense


def interpolated_ap(
    logits: Tensor, targets: Tensor | SparseTargets, delta: float, positive_indices: Tensor | None, group: Group
) -> Tensor:
    """The loss, a scalar; arguments as in :func:`bucketed_losses.functional.ap_loss`, which states the equations."""
    return with_gradient(logits, interpolated_update(logits, targets, delta, positive_indices, group))[0]


def interpolated_update(
    logits: Tensor, targets: Tensor | SparseTargets, delta: float, positive_indices: Tensor | None, group: Group
) -> ErrorDrivenUpdate:
    """The value and the gradient of the loss."""
    check_determinism(logits)
    processes = resolve(group)
    targets, positive_indices, ious = as_dense(targets, positive_indices, logits)
    entries = flatten(logits, targets)
    x, t = entries.logits, entries.targets
    if positive_indices is None:
        positive_indices = find_positives(t)
    own_logits = x.index_select(0, positive_indices)
    nonfinite = entries.nonfinite if ious is None else entries.nonfinite + 0 * ious.sum()
    gathered = gather_positives(own_logits, torch.ones_like(own_logits), nonfinite, processes)
    nonfinite = gathered.nonfinite.to(x.dtype)
    if len(gathered.logits) == 0:
        return ErrorDrivenUpdate((nonfinite,), positive_indices, (x.new_zeros(0),))

    positives = rank_positives(gathered.logits, gathered.values, delta, sort=False)
    negatives = relevant_negatives(x, t, positives.floor)
    counted = count_negatives(positives, negatives.logits, delta, exact=True, group=processes)
    num_positives, false_positives = len(counted.positives), counted.false_positives

    ranks = ranks_with_self_as_one(positives, false_positives, delta)
    errors = false_positives / ranks
    # Positives are in ascending order of logits, so the highest precision of those at or below i is a running one.
    interpolated = errors.cummin(0).values
    # E(i) / FP(i), to be multiplied by H(x_ij). If E(i) = e(i), it is 1 / rank(i), also where FP(i) is 0.
    per_step = torch.where(interpolated < errors, interpolated / false_positives, 1 / ranks)
    negative_grads = counted.share(per_step / num_positives, negatives.logits)

    in_given_order = torch.empty_like(ranks).index_copy_(0, positives.order, -interpolated / num_positives)
    own = in_given_order.narrow(0, gathered.start, len(positive_indices)).to(x.dtype)
    return ErrorDrivenUpdate(
        values=(interpolated.mean().to(x.dtype) + nonfinite,),
        positive_indices=positive_indices,
        positive_grads=(own + nonfinite,),
        negative_indices=negatives.indices,
        negative_grads=negative_grads,
        num_processes=num_processes(processes),
    )
