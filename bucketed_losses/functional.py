"""Ranking-based losses as pure functions of tensors; torch is the only import.

Notation (the paper's): logits ``s``; positives ``i in P`` with labels ``t_i`` in (0, 1], the IoU of the predicted box
with its ground truth; negatives ``j in N``; ``x_ij = s_j - s_i``; the smoothed step ``H`` of Eq. 2 with half-width
``delta``. Then::

    rank+(i) = sum_{k in P} H(x_ik)      FP(i) = sum_{j in N} H(x_ij)      rank(i) = rank+(i) + FP(i)         (Eq. 1)
    ranking error  l_R(i)  = FP(i) / rank(i),  its target 0                                                   (Eq. 9)
    sorting error  l_S(i)  = sum_k H(x_ik) (1 - t_k) / rank+(i)                                               (S.3)
    its target     l*_S(i) = sum_k H(x_ik) [t_k >= t_i] (1 - t_k) / sum_k H(x_ik) [t_k >= t_i]                (S.4)

    AP Loss = mean_i l_R(i)                                                                                   (Eq. 3)
    RS Loss = mean_i l_R(i) + mean_i (l_S(i) - l*_S(i))                                                       (Eq. 10)

Four losses share one engine and differ in the edges between which negatives are bucketed:

=======================  ==================================  ===================================================
loss                     edges                               what it equals
=======================  ==================================  ===================================================
``bucketed_ap_loss``     the positives (Eq. 12)              the paper's Bucketed AP Loss
``bucketed_rs_loss``     the positives (Eq. 12)              the paper's Bucketed RS Loss
``ap_loss``              the positives +- delta              AP Loss, exactly: H is linear inside every bucket
``rs_loss``              the positives +- delta              RS Loss, exactly
=======================  ==================================  ===================================================

Time O((N + P) log P), memory O(N + P); no loop over positives.

FP(i) and the buckets' sizes and sums are sums over negatives. With a process ``group`` the positives of all processes
are therefore gathered, each process buckets its own negatives, and one all-reduce of O(P) numbers gives every process
the loss of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import step_sums
from .processes import ProcessGroup, add_up, gather_positives, num_processes
from .step_sums import (
    Band,
    Buckets,
    LabelOrder,
    band_above,
    band_below,
    bucket_negatives,
    clamp_between,
    dominance_sums,
    pieces,
    round_up,
    sums_above,
    sums_below,
)

__all__ = ['ALRP', 'RankSort', 'alrp_loss', 'ap_loss', 'bucketed_ap_loss', 'bucketed_rs_loss', 'dr_loss', 'rs_loss']


class RankSort(NamedTuple):
    """The two parts of RS Loss, scalars of the logits' dtype (float32 for half precision). Their sum is the loss."""

    ranking: Tensor
    sorting: Tensor


def ap_loss(
    logits: Tensor,
    targets: Tensor,
    delta: float = 1.0,
    positives: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """AP Loss (Eq. 3, 4), exact and unbucketed for every ``delta``.

    Args:
        logits: Scores before the sigmoid, any shape, any floating-point dtype. Half precision is computed in float32.
        targets: Same shape: 0 negative, (0, 1] positive, below 0 ignored (such entries take no part). AP Loss does not
            use how large a positive target is.
        delta: Half-width of the smoothed step H, in logits.
        positives: ``(P,)`` int64 indices of the positives among the flattened logits, without repetition, if the
            caller knows them: spares a pass and a host synchronisation. A positive that is not among them is ignored.
        group: Processes whose logits are ranked together, e.g. ``torch.distributed.group.WORLD``; None for this
            process alone. All of them must make the call, in the same order as their other collectives, and with the
            same ``delta``; any of them may have no positives, no negatives, or nothing at all. Three collectives: one
            gathers how many positives each has, one gathers those, one adds up the buckets (where no process has a
            positive, all of them know it after the first). The value is the whole batch's on every process. The
            gradient is the whole batch's too, for one's own logits, times the number of processes: the mean over
            processes that ``DistributedDataParallel`` takes of parameters' gradients makes it exact.

    Returns:
        A scalar in [0, 1); 0 and connected to ``logits`` if there is no positive; NaN if any logit or target that
        takes part is not finite.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes or devices differ, ``delta`` is negative or not finite, or a target exceeds 1. The last one
            is checked on the CPU only, as is that ``positives`` are positive: on an accelerator it would cost a host
            synchronisation.

    Note:
        The gradient is the Identity Update (Eq. 8), not the derivative of the value, which is zero almost everywhere
        for ``delta = 0``; ``torch.autograd.gradcheck`` therefore does not apply. On an accelerator a call synchronises
        with the host twice: to learn how many positives there are, unless they are given, and how many negatives can
        matter; and with a ``group`` a third time, to learn how many positives the others have.
    """
    return _rank_and_sort(logits, targets, delta, positives, group, exact=True, sort=False).ranking


def bucketed_ap_loss(
    logits: Tensor,
    targets: Tensor,
    delta: float = 1.0,
    positives: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Bucketed AP Loss (Sec. 4.2.1, Eq. 13 and 14) as published; arguments and errors as in :func:`ap_loss`.

    Negatives between two neighbouring positives count as one, at their mean, and share its gradient equally (S.22).
    Equals :func:`ap_loss` for ``delta = 0`` (Theorem 1) and approximates it otherwise.
    """
    return _rank_and_sort(logits, targets, delta, positives, group, exact=False, sort=False).ranking


def rs_loss(
    logits: Tensor,
    targets: Tensor,
    delta: float = 0.5,
    positives: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> RankSort:
    """RS Loss (Eq. 10, S.2 to S.9), exact and unbucketed for every ``delta``.

    Args:
        logits: As in :func:`ap_loss`.
        targets: Same shape: 0 negative, (0, 1] positive with its IoU, below 0 ignored.
        delta: Half-width of the smoothed step H, in logits.
        positives, group: As in :func:`ap_loss`.

    Returns:
        ``RankSort(ranking, sorting)``, two scalars; add them for the loss. The gradients of both count.

    Raises:
        TypeError, ValueError: as :func:`ap_loss`.
    """
    return _rank_and_sort(logits, targets, delta, positives, group, exact=True, sort=True)


def bucketed_rs_loss(
    logits: Tensor,
    targets: Tensor,
    delta: float = 0.5,
    positives: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> RankSort:
    """Bucketed RS Loss (Sec. 4.2.2) as published; arguments, result and errors as in :func:`rs_loss`.

    The ranking part is bucketed as in :func:`bucketed_ap_loss`; the sorting part involves no negatives and is exact.
    """
    return _rank_and_sort(logits, targets, delta, positives, group, exact=False, sort=True)


class ALRP(NamedTuple):
    """The two parts of aLRP Loss, scalars. Detectors weigh the second by a self-balancing factor and add them."""

    classification: Tensor
    localization: Tensor


def alrp_loss(
    logits: Tensor,
    targets: Tensor,
    box_errors: Tensor,
    delta: float = 1.0,
    positives: Tensor | None = None,
    group: ProcessGroup | None = None,
) -> ALRP:
    """aLRP Loss, exact for every ``delta`` (Oksuz et al., A Ranking-based, Balanced Loss Function Unifying
    Classification and Localisation in Object Detection, NeurIPS 2020).

    With ``rank+(i) = 1 + sum_{k != i} H(x_ik)`` over the positives and ``rank(i) = rank+(i) + FP(i)``::

        classification  mean_i FP(i) / rank(i)
        localization    mean_i sum_{k: s_k >= s_i} e_k / rank(i),  rank detached

    The logits' gradient is that of the whole error by error-driven update, ``-(sum_{k != i} H(x_ik) e_k + FP(i)) /
    rank(i) / |P|`` for a positive with ``FP(i) > 1e-5``, handed to the negatives that outrank it in proportion to
    ``H(x_ij)``; that of the localisation goes to the box errors alone.

    Args:
        logits: As in :func:`ap_loss`.
        targets: Same shape: 0 negative, above 0 positive (its value does not matter), below 0 ignored.
        box_errors: ``(P,)`` localisation errors e of the positives, 0 or more, in the order of ``positives``, or of the
            flattened logits. Published: the GIoU loss of the box, ``(1 - GIoU) / (2 (1 - tau))`` with tau 0.5.
        delta: Half-width of the smoothed step H, in logits.
        positives, group: As in :func:`ap_loss`.

    Returns:
        Two scalars; 0 and connected without positives.

    Raises:
        TypeError, ValueError: as :func:`ap_loss`; or ``box_errors`` do not fit the positives.
    """
    _check_arguments(logits, targets, delta, positives)
    if positives is None:
        positives = (targets.detach().reshape(-1) > 0).nonzero().squeeze(1)
    if not isinstance(box_errors, Tensor) or not box_errors.is_floating_point():
        raise TypeError(f'box_errors must be a floating-point torch.Tensor, got {type(box_errors).__name__}')
    if box_errors.shape != positives.shape:
        raise ValueError(
            f'box_errors must have the shape ({len(positives)},), one for each positive, got {tuple(box_errors.shape)}'
        )
    classification, shares = _ALRPLoss.apply(logits, targets, box_errors.detach(), float(delta), positives, group)
    errors = box_errors.to(shares.dtype)
    localization = (shares * errors).sum()
    if group is not None:
        # The value is that of all processes; the gradient is one's own, times what averaging will divide it by.
        total = add_up(localization.detach().clone(), group)
        localization = localization * num_processes(group)
        localization = localization + (total - localization.detach())
    return ALRP(classification, localization)


def dr_loss(
    logits: Tensor,
    targets: Tensor,
    margin: float = 0.5,
    positive_temperature: float = 1.0,
    negative_temperature: float = 0.1 / math.log(3.5),
    smoothness: float = 6.0,
    scale: float = 4.0,
) -> Tensor:
    """DR Loss (Qian et al., DR Loss: Improving Object Detection by Distributional Ranking, CVPR 2020).

    The expected score of the positives, under the distribution that weighs the low ones, must exceed that of the
    negatives, under the one that weighs the high ones, by a margin; p are sigmoid scores::

        P+ = sum q+ p,  q+ ~ exp(-p / positive_temperature)     P- = sum q- p,  q- ~ exp(p / negative_temperature)
        loss = scale * softplus(smoothness * (P- - P+ + margin)) / smoothness

    Args:
        logits: Any shape, any floating-point dtype, before the sigmoid; half precision is computed in float32.
        targets: Same shape: 0 negative, above 0 positive (its value does not matter), below 0 ignored.
        margin: gamma.
        positive_temperature, negative_temperature: lambda+ and lambda-, above 0.
        smoothness: L, above 0.
        scale: tau.

    Returns:
        A scalar, differentiable by autograd. Without positives ``P+ = 1``; without negatives ``P- = 0``.

    Raises:
        TypeError, ValueError: as :func:`ap_loss`; or a temperature or the smoothness is not above 0.
    """
    _check_arguments(logits, targets, 0.0, None)
    for name, value in (
        ('positive_temperature', positive_temperature),
        ('negative_temperature', negative_temperature),
        ('smoothness', smoothness),
    ):
        if not value > 0:
            raise ValueError(f'{name} must be above 0, got {value}')
    x = logits if logits.dtype == torch.float64 else logits.float()
    # Infinite logits have scores, but the loss of a network that makes them must not look sound.
    poison = torch.where(targets < 0, 0, x.detach() + targets).mul(0).sum()
    expected = []
    for chosen, temperature, default in (
        (targets > 0, -positive_temperature, 1.0),
        (targets == 0, negative_temperature, 0.0),
    ):
        score = x[chosen].sigmoid()
        if len(score) == 0:
            expected.append(x.sum() * 0 + default)
            continue
        exponent = score / temperature
        weights = (exponent - exponent.detach().max()).exp()
        # Sums of many millions need more digits than their terms.
        mean = (weights * score).sum(dtype=torch.float64) / weights.sum(dtype=torch.float64)
        expected.append(mean.to(x.dtype))
    high, low = expected[1], expected[0]
    return scale * torch.nn.functional.softplus(high - low + margin, beta=smoothness) + poison


class RankedPositives(NamedTuple):
    """What the positives say without the negatives; ``(P,)`` float64 in ascending order of their logits."""

    order: Tensor
    """int64, their indices in that order."""
    logits: Tensor
    origin: Tensor
    """The scalar that is taken from every logit before sums are made."""
    floor: Tensor
    """The scalar ``min(logits) - delta``: a negative below it is 0 steps above every positive."""
    ranks: Tensor
    """rank+ (Eq. 1)."""
    sorting: Tensor
    """Sorting error over its target, ``l_S - l*_S`` (S.3, S.4); zeros where it was not asked for."""
    sorting_grad: Tensor
    """Its Identity Update (S.8), times P."""


class IdentityUpdate(NamedTuple):
    """Value and gradient of the ranking and the sorting part, gradients in the order of the arguments."""

    ranking: Tensor
    sorting: Tensor
    negative_grads: list[Tensor]
    """Of the ranking part, piece by piece; the sorting part has none."""
    positive_grad: Tensor
    """``(2, P)``: of the ranking and of the sorting part."""


def rank_positives(positives: Tensor, labels: Tensor, delta: float, sort: bool) -> RankedPositives:
    """Rank the positives among themselves; never synchronises with the host.

    Args:
        positives: ``(P,)`` logits, P >= 1.
        labels: ``(P,)`` IoUs in (0, 1].
        delta: Half-width of H.
        sort: Compute the sorting part.
    """
    order = positives.argsort()
    logits = positives.index_select(0, order).double()
    # The loss is shift-free, and near zero the prefix sums lose least. Without smoothing they only count, and a shift
    # could round neighbouring logits to one.
    origin = logits.select(0, len(logits) // 2) if delta > 0 else logits.new_zeros(())
    s = logits - origin
    band = band_above(s, s, delta)
    ranks = sums_above(s, torch.ones_like(s), s, band, delta).values
    sorting = sorting_grad = torch.zeros_like(s)
    if sort:
        sorting, sorting_grad = _sorting_update(s, labels.index_select(0, order).double(), ranks, band, delta)
    return RankedPositives(order, logits, origin, logits.select(0, 0) - delta, ranks, sorting, sorting_grad)


def _sorting_update(s: Tensor, labels: Tensor, ranks: Tensor, band: Band, delta: float) -> tuple[Tensor, Tensor]:
    """Sorting loss ``l_S - l*_S`` (S.3, S.4) and its Identity Update (S.8), times |P|, for ascending logits ``s``."""
    sorted_labels, by_label = labels.sort()
    sorting, per_worse = _sorting_errors(
        s, 1 - labels, LabelOrder(torch.searchsorted(sorted_labels, labels), by_label), ranks, band, delta
    )
    # sum_{k: t_k > t_i} per_worse_k H(s_i - s_k): the dominance sum with logits and labels mirrored.
    above = len(s) - torch.searchsorted(sorted_labels, labels, right=True)
    order = LabelOrder(above.flip(0), len(s) - 1 - by_label.flip(0))
    del sorted_labels, by_label, above
    mirrored = -s.flip(0)
    band = band_above(mirrored, mirrored, delta)
    demotion = dominance_sums(mirrored, order, per_worse.flip(0).unsqueeze(0), band, delta)
    return sorting, demotion.squeeze(0).flip(0) - sorting


def _sorting_errors(
    s: Tensor, cost: Tensor, order: LabelOrder, ranks: Tensor, band: Band, delta: float
) -> tuple[Tensor, Tensor]:
    """``l_S - l*_S`` for costs ``1 - t``, and the same over D, the sum that (S.7) distributes it by."""
    current = sums_above(s, cost, s, band, delta).values  # sum_k H(x_ik) (1 - t_k)
    # Sums over [t_k >= t_i] are sums over all less those over [t_k < t_i].
    worse, worse_cost = dominance_sums(s, order, torch.stack([torch.ones_like(s), cost]), band, delta)
    sorting = current / ranks - (current - worse_cost) / (ranks - worse)
    # Where no worse-localised positive ranks above i there is nothing to distribute: D_i = 0, up to rounding.
    distributes = worse > 1e-12 * ranks
    return torch.where(distributes, sorting, 0), torch.where(distributes, sorting / worse, 0)


class CountedNegatives(NamedTuple):
    """Negatives in buckets, as the positives see them."""

    false_pos: Tensor
    """FP(i) (Eq. 1, 13), ``(P,)`` float64."""
    positives: Tensor
    """``(P,)`` their logits, ascending, from the origin that sums are made at."""
    means: Tensor
    """``(B,)`` of the buckets, from the same origin."""
    band: Band
    """The positives around each mean for which H is fractional."""
    buckets: Buckets
    delta: float
    exact: bool

    def share(self, weights: Tensor, negatives: Sequence[Tensor]) -> list[Tensor]:
        """``sum_i weights_i H(x_ij)`` for every negative, piece by piece; exact ones overwrite the negatives.

        FP(i) is the same sum of steps, seen from the positives. In the paper all of a bucket get that of its mean;
        inside an exact bucket it is linear in s_j.
        """
        sums = sums_below(self.positives, weights, self.means, self.band, self.delta)
        # Bucket 0 lies below the floor. Its share is 0 in exact arithmetic; rounding must not make it anything else.
        for part in sums:
            part.select(-1, 0).zero_()
        return self.buckets.spread(negatives, sums, linear=self.exact and self.delta > 0)


def count_negatives(
    positives: RankedPositives,
    negatives: Sequence[Tensor],
    delta: float,
    exact: bool,
    group: ProcessGroup | None = None,
) -> CountedNegatives:
    """How many negatives stand above each positive; arguments as for :func:`identity_update`, nothing is used up.

    In both branches the lowest edge is the floor, so that bucket 0 holds what takes no part: its size is 0.
    """
    s = positives.logits - positives.origin
    if exact and delta > 0:  # for delta = 0 both kinds of edges are the same
        edges, band, band_of_positives = _edges_around(positives.logits, delta)
        buckets = bucket_negatives(negatives, edges, group, lowest_counts=False)
        means = buckets.means - positives.origin
    else:
        # The floor is an edge too: the published code drops what is below it before it takes means.
        edges = torch.cat([positives.floor.unsqueeze(0), positives.logits])
        buckets = bucket_negatives(negatives, edges, group, lowest_counts=False)
        means = clamp_between(buckets.means, edges) - positives.origin
        band, band_of_positives = band_above(means, s, delta), band_below(s, means, delta)
    false_pos = sums_above(means, buckets.sizes, s, band, delta).values.clamp(min=0)
    return CountedNegatives(false_pos, s, means, band_of_positives, buckets, delta, exact)


def identity_update(
    positives: RankedPositives,
    negatives: Sequence[Tensor],
    delta: float,
    exact: bool,
    group: ProcessGroup | None = None,
) -> IdentityUpdate:
    """Loss and Identity Update (Eq. 8) of ranked positives and negatives; never synchronises with the host.

    Args:
        positives: from :func:`rank_positives`.
        negatives: logits in pieces ``(n,)``, which are used up: exact gradients overwrite them. Those below the
            positives' floor may be left out: they get no gradient and change no bit of the result.
        delta: Half-width of H.
        exact: Edges at the positives +- delta, instead of at the positives.
        group: Processes with the same positives, and negatives of their own.
    """
    num_pos = len(positives.logits)
    counted = count_negatives(positives, negatives, delta, exact, group)
    ranks = positives.ranks + counted.false_pos
    ranking_error = counted.false_pos / ranks  # l_R(i)

    # A negative's gradient is sum_i H(x_ij) / rank(i) / |P| (Eq. 14, S.22).
    negative_grads = counted.share(1 / (num_pos * ranks), negatives)

    grads = torch.stack([-ranking_error, positives.sorting_grad]) / num_pos
    positive_grad = torch.empty_like(grads).index_copy(1, positives.order, grads)
    return IdentityUpdate(ranking_error.mean(), positives.sorting.mean(), negative_grads, positive_grad)


def _edges_around(logits: Tensor, delta: float) -> tuple[Tensor, Band, Band]:
    """The edges ``logits -+ delta``, ascending; the buckets in each logit's band; the logits in each bucket's band.

    Two ascending rows are merged by counting, and the bands follow from the places: bucket b has b edges below it.
    """
    num = len(logits)
    entry, exit_ = logits - delta, logits + delta
    place = torch.arange(num, device=logits.device)
    entry_place = place + torch.searchsorted(exit_, entry)
    exit_place = place + torch.searchsorted(entry, exit_, right=True)
    edges = torch.empty(2 * num, dtype=logits.dtype, device=logits.device)
    edges = edges.index_copy(0, entry_place, entry).index_copy(0, exit_place, exit_)
    is_entry = torch.zeros_like(edges, dtype=torch.int64).index_fill(0, entry_place, 1)
    entered = torch.nn.functional.pad(is_entry.cumsum(0), (1, 0))
    left = torch.arange(2 * num + 1, device=logits.device) - entered
    return edges, Band(entry_place + 1, exit_place + 1), Band(left, entered)


class _RankingLoss(torch.autograd.Function):
    """Values and Identity Update in the forward pass; the backward pass scales by the gradients of both outputs."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        delta: float,
        is_pos: Tensor | None,
        group: ProcessGroup | None,
        exact: bool,
        sort: bool,
    ) -> tuple[Tensor, Tensor]:
        x, t, poison = _flat(logits, targets)
        ctx.shape, ctx.dtype, ctx.num_processes = logits.shape, logits.dtype, num_processes(group)
        if is_pos is None:
            is_pos = (t > 0).nonzero().squeeze(1)  # host synchronisation 1: how many positives
        gathered = gather_positives(x.index_select(0, is_pos), t.index_select(0, is_pos), poison, group)
        poison = gathered.poison
        if len(gathered.logits) == 0:
            empty = x.new_zeros(0)
            ctx.save_for_backward(is_pos, empty, empty)
            return poison, poison.clone()

        positives = rank_positives(gathered.logits, gathered.labels, delta, sort)
        is_neg, negatives = _negatives_above(positives.floor, x, t)
        update = identity_update(positives, negatives, delta, exact, group)
        own = update.positive_grad.narrow(1, gathered.start, len(is_pos))
        rank_grad, sort_grad = own.to(x.dtype) + poison
        ctx.save_for_backward(is_pos, rank_grad, sort_grad, *is_neg, *update.negative_grads)
        return update.ranking.to(x.dtype) + poison, update.sorting.to(x.dtype) + poison

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ranking: Tensor, sorting: Tensor) -> tuple[Tensor | None, ...]:
        is_pos, rank_grad, sort_grad, *saved = ctx.saved_tensors
        is_neg, negative_grads = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        ranking, sorting = ranking * ctx.num_processes, sorting * ctx.num_processes
        grad = _scattered(ctx, is_pos, rank_grad * ranking + sort_grad * sorting, is_neg, negative_grads, ranking)
        return grad, None, None, None, None, None, None


class _ALRPLoss(torch.autograd.Function):
    """Value and logits' gradient of the classification part; and how much each box error counts in the other."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        errors: Tensor,
        delta: float,
        is_pos: Tensor,
        group: ProcessGroup | None,
    ) -> tuple[Tensor, Tensor]:
        x, t, poison = _flat(logits, targets)
        ctx.shape, ctx.dtype, ctx.num_processes = logits.shape, logits.dtype, num_processes(group)
        gathered = gather_positives(x.index_select(0, is_pos), errors, poison + 0 * errors.sum(), group)
        poison = gathered.poison.to(x.dtype)
        if len(gathered.logits) == 0:
            ctx.save_for_backward(is_pos, x.new_zeros(0))
            shares = x.new_zeros(0)
            ctx.mark_non_differentiable(shares)
            return poison, shares
        positives = rank_positives(gathered.logits, torch.ones_like(gathered.logits), delta, sort=False)
        is_neg, negatives = _negatives_above(positives.floor, x, t)
        counted = count_negatives(positives, negatives, delta, exact=True, group=group)
        s, num_pos = counted.positives, len(counted.positives)

        itself = 1.0 if delta == 0 else 0.5  # H(0), of which rank+ makes 1 and the errors 0
        ranks = positives.ranks + (1 - itself) + counted.false_pos
        ordered = gathered.labels.double().index_select(0, positives.order)
        above = sums_above(s, ordered, s, band_above(s, s, delta), delta).values - itself * ordered
        driven = counted.false_pos > 1e-5
        error = torch.where(driven, (above + counted.false_pos) / (ranks * num_pos), 0)
        negative_grads = counted.share(torch.where(driven, error / counted.false_pos, 0), negatives)

        # mean_i sum_{k: s_k >= s_i} e_k / rank(i) is a sum over k, of e_k times what the i below k say.
        below = torch.nn.functional.pad((1 / (ranks * num_pos)).cumsum(0), (1, 0))
        counts = below.index_select(0, torch.searchsorted(positives.logits, positives.logits, right=True))
        by_positive = torch.empty(2, num_pos, dtype=torch.float64, device=x.device)
        by_positive = by_positive.index_copy(1, positives.order, torch.stack([-error, counts]))
        own, shares = by_positive.narrow(1, gathered.start, len(is_pos)).to(x.dtype).unbind()
        shares = shares + poison
        ctx.save_for_backward(is_pos, own + poison, *is_neg, *negative_grads)
        ctx.mark_non_differentiable(shares)
        return (counted.false_pos / ranks).mean().to(x.dtype) + poison, shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, classification: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        is_pos, positive_grad, *saved = ctx.saved_tensors
        is_neg, negative_grads = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        scale = classification * ctx.num_processes
        grad = _scattered(ctx, is_pos, positive_grad * scale, is_neg, negative_grads, scale)
        return grad, None, None, None, None, None


def _flat(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets ``(n,)``, at least float32; and a scalar 0, or NaN where the loss must be: no comparison may
    turn a non-finite logit into a finite loss."""
    x = logits.detach().reshape(-1)
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    t = targets.detach().reshape(-1)
    poison = x.new_zeros(())
    for x_piece, t_piece in pieces(x, t):
        poison += torch.where(t_piece < 0, 0, x_piece + t_piece).mul_(0).sum()
    return x, t, poison


def _negatives_above(floor: Tensor, x: Tensor, t: Tensor) -> tuple[list[Tensor | None], list[Tensor]]:
    """:func:`_relevant_negatives` of every piece."""
    floor = round_up(floor, x.dtype)
    relevant = [_relevant_negatives(x_piece, t_piece, floor) for x_piece, t_piece in pieces(x, t)]
    return [index for index, _ in relevant], [negatives for _, negatives in relevant]


def _scattered(
    ctx: Any,
    is_pos: Tensor,
    positive_grad: Tensor,
    is_neg: Sequence[Tensor | None],
    negative_grads: Sequence[Tensor],
    scale: Tensor,
) -> Tensor:
    """The gradient of all logits: that of the positives, and ``scale`` times that of the negatives."""
    grad = positive_grad.new_zeros(ctx.shape.numel())
    for (piece,), index, negative_grad in zip(pieces(grad), is_neg, negative_grads, strict=False):
        if index is None:
            torch.mul(negative_grad, scale, out=piece)
        else:
            piece.scatter_(0, index, negative_grad * scale)
    grad.scatter_(0, is_pos, positive_grad)
    return grad.reshape(ctx.shape).to(ctx.dtype)


def _relevant_negatives(logits: Tensor, targets: Tensor, floor: Tensor) -> tuple[Tensor | None, Tensor]:
    """Indices and logits of the negatives that are not below the floor; where they are most of all, no indices, but
    everything, with the rest moved below the floor, into the bucket that takes no part: on a CPU, picking them out
    would cost more than it saves."""
    relevant = (targets == 0) & (logits >= floor)
    if step_sums.on_cpu(logits) and 2 * relevant.count_nonzero() > len(logits):
        # Next to a floor of 0 are subnormal numbers, which `torch.set_flush_denormal` makes equal to it; -inf is below
        # the lowest floor, but an exact gradient would multiply it by 0.
        below = torch.minimum(floor - 1, torch.nextafter(floor, torch.full_like(floor, -torch.inf)))
        if below.isfinite():
            return None, torch.where(relevant, logits, below)
    # host synchronisation 2: how many negatives can matter; late in training few do
    index = relevant.nonzero().squeeze(1)
    return index, logits.index_select(0, index)


def _rank_and_sort(
    logits: Tensor,
    targets: Tensor,
    delta: float,
    positives: Tensor | None,
    group: ProcessGroup | None,
    exact: bool,
    sort: bool,
) -> RankSort:
    _check_arguments(logits, targets, delta, positives)
    return RankSort(*_RankingLoss.apply(logits, targets, float(delta), positives, group, exact, sort))


def _check_arguments(logits: Tensor, targets: Tensor, delta: float, positives: Tensor | None) -> None:
    for name, value in (('logits', logits), ('targets', targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f'{name} must be a torch.Tensor, got {type(value).__name__}')
    if not logits.is_floating_point():
        raise TypeError(f'logits must be a floating-point tensor (scores before the sigmoid), got {logits.dtype}')
    if targets.is_complex():
        raise TypeError(f'targets must be real (0 negative, (0, 1] positive, < 0 ignored), got {targets.dtype}')
    if targets.shape != logits.shape:
        raise ValueError(
            f'targets must have the shape of logits, {tuple(logits.shape)}, got {tuple(targets.shape)}; '
            'for class indices build one target per (prediction, class) entry'
        )
    if targets.device != logits.device:
        raise ValueError(f'targets must be on the device of logits, {logits.device}, got {targets.device}')
    if isinstance(delta, bool) or not isinstance(delta, (int, float)):
        raise TypeError(f'delta must be a float, got {type(delta).__name__}')
    if not (math.isfinite(delta) and delta >= 0):
        raise ValueError(f'delta must be finite and not negative, got {delta}')
    # Reading a value on an accelerator would make the host wait for it; there, targets above 1 go unnoticed.
    if step_sums.on_cpu(targets) and targets.numel() and targets.max() > 1:
        raise ValueError(
            f'targets must not exceed 1 (0 negative, (0, 1] positive with its IoU, < 0 ignored), '
            f'got a maximum of {targets.max().item():g}'
        )
    if positives is not None:
        _check_positives(positives, targets)


def _check_positives(positives: Tensor, targets: Tensor) -> None:
    if not isinstance(positives, Tensor):
        raise TypeError(f'positives must be a torch.Tensor of indices, got {type(positives).__name__}')
    if positives.dtype != torch.int64 or positives.dim() != 1:
        raise TypeError(f'positives must be (P,) int64 indices, got {tuple(positives.shape)} {positives.dtype}')
    if positives.device != targets.device:
        raise ValueError(f'positives must be on the device of logits, {targets.device}, got {positives.device}')
    if step_sums.on_cpu(targets) and len(positives):
        lowest, highest = (int(value) for value in positives.aminmax())
        if lowest < 0 or highest >= targets.numel():
            raise ValueError(
                f'positives must be indices of the {targets.numel()} flattened logits, got {lowest} to {highest}'
            )
        if not (targets.reshape(-1).index_select(0, positives) > 0).all():
            raise ValueError('positives must be indices of entries whose target is above 0, got others among them')
