"""aLRP Loss (Oksuz et al., A Ranking-based, Balanced Loss Function Unifying Classification and Localisation in Object
Detection, NeurIPS 2020), exact."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .autograd import ErrorDrivenUpdate, with_gradient
from .devices import check_determinism
from .distributed import Group, add_up, gather_positives, num_processes, resolve
from .entries import find_positives, flatten
from .negatives import count_negatives, relevant_negatives
from .positives import RankedPositives, rank_positives
from .step_sums import band_above, sums_above

MIN_FALSE_POSITIVES = 1e-5
"""A positive with fewer false positives than this has no error, as in the published code."""


class ALRP(NamedTuple):
    """The two parts of aLRP Loss, scalars. Detectors multiply the second by a self-balancing factor and add them."""

    classification: Tensor
    localization: Tensor


def alrp(
    logits: Tensor,
    targets: Tensor,
    box_errors: Tensor,
    delta: float,
    positive_indices: Tensor | None,
    group: Group,
) -> ALRP:
    """Arguments as in :func:`bucketed_losses.functional.alrp_loss`.

    Raises:
        ValueError: There is not one box error for each positive.
    """
    check_determinism(logits)
    processes = resolve(group)
    entries = flatten(logits, targets)
    x, t = entries.logits, entries.targets
    if positive_indices is None:
        positive_indices = find_positives(t)
    if box_errors.shape != positive_indices.shape:
        raise ValueError(
            f'box_errors must have the shape ({len(positive_indices)},), one for each positive, '
            f'got {tuple(box_errors.shape)}'
        )
    errors = box_errors.detach()
    nonfinite = entries.nonfinite + 0 * errors.sum()
    gathered = gather_positives(x.index_select(0, positive_indices), errors, nonfinite, processes)
    nonfinite = gathered.nonfinite.to(x.dtype)
    if len(gathered.logits) == 0:
        shares = x.new_zeros(0)
        update = ErrorDrivenUpdate((nonfinite,), positive_indices, (shares,))
    else:
        positives = rank_positives(gathered.logits, torch.ones_like(gathered.logits), delta, sort=False)
        negatives = relevant_negatives(x, t, positives.floor)
        counted = count_negatives(positives, negatives.logits, delta, exact=True, group=processes)
        num_positives, false_positives = len(counted.positives), counted.false_positives

        ranks = ranks_with_self_as_one(positives, false_positives, delta)
        error = whole_errors(positives, gathered.values, ranks, false_positives, delta, MIN_FALSE_POSITIVES)
        error = error / num_positives
        per_step = torch.where(error != 0, error / false_positives, 0)
        negative_grads = counted.share(per_step, negatives.logits)

        # The localisation part is mean_i sum_{k: s_k >= s_i} e_k / rank(i). In this sum, e_k is multiplied by the sum
        # of 1 / rank(i) over the positives i with s_i <= s_k.
        prefix = pad((1 / (ranks * num_positives)).cumsum(0), (1, 0))
        not_above = torch.searchsorted(positives.logits, positives.logits, right=True)
        ascending = torch.stack([-error, prefix.index_select(0, not_above)])
        in_given_order = torch.empty_like(ascending).index_copy_(1, positives.order, ascending)
        own, shares = in_given_order.narrow(1, gathered.start, len(positive_indices)).to(x.dtype).unbind()
        shares = shares + nonfinite
        update = ErrorDrivenUpdate(
            values=((false_positives / ranks).mean().to(x.dtype) + nonfinite,),
            positive_indices=positive_indices,
            positive_grads=(own + nonfinite,),
            negative_indices=negatives.indices,
            negative_grads=negative_grads,
            num_processes=num_processes(processes),
        )
    (classification,) = with_gradient(logits, update)
    localization = (shares * box_errors.to(shares.dtype)).sum()
    if processes is not None and len(gathered.logits):
        # The value is that of all processes. The gradient is that of this process's boxes, times the number of
        # processes, which averaging over processes divides by.
        total = add_up(localization.detach().clone(), processes)
        localization = localization * num_processes(processes)
        localization = localization + (total - localization.detach())
    return ALRP(classification, localization)


def ranks_with_self_as_one(positives: RankedPositives, false_positives: Tensor, delta: float) -> Tensor:
    """``rank(i) = 1 + sum_{k != i} H(x_ik) + FP(i)``, ``(P,)`` float64 in ascending order of the positives' logits.

    A positive counts as 1 in its own rank here; rank+ of Eq. 1 counts it as ``H(0)``.
    """
    return positives.ranks + (1 - _step_at_zero(delta)) + false_positives


def whole_errors(
    positives: RankedPositives,
    box_errors: Tensor,
    ranks: Tensor,
    false_positives: Tensor,
    delta: float,
    least_false_positives: float,
) -> Tensor:
    """``(sum_{k != i} H(x_ik) e_k + FP(i)) / rank(i)``, ``(P,)`` float64 in ascending order of the positives' logits.

    Args:
        positives: From :func:`rank_positives`.
        box_errors: ``(P,)``, in the given order of the positives.
        ranks: From :func:`ranks_with_self_as_one`.
        false_positives: FP(i), ``(P,)`` float64.
        delta: Half-width of H.
        least_false_positives: A positive that does not have more than this has no error.
    """
    s = positives.logits - positives.origin
    ordered = box_errors.double().index_select(0, positives.order)
    # A positive does not count in its own error.
    above = sums_above(s, ordered, s, band_above(s, s, delta), delta).values - _step_at_zero(delta) * ordered
    return torch.where(false_positives > least_false_positives, (above + false_positives) / ranks, 0)


def _step_at_zero(delta: float) -> float:
    return 1.0 if delta == 0 else 0.5
