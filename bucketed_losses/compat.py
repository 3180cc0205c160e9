"""Drop-in replacements for the ranking losses of 2020 and 2021: ``RankSort``, ``aLRPLoss`` and ``APLoss``.

The code of aLRP Loss (NeurIPS 2020) and of RS Loss (ICCV 2021) has been copied into many repositories, YOLOv7's
``utils/loss.py`` among them: three autograd Functions, each with a Python loop over the positives, for CUDA alone. This
module has the same names, arguments, returned tuples and gradients, on any device, in O((N + P) log P) time and
O(N + P) memory. torch is the only import. In a copy, replace the three classes by::

    from bucketed_losses.compat import APLoss, RankSort, aLRPLoss

New code should use :mod:`bucketed_losses.functional`, whose gradients follow the usual rules of autograd.

What is the same as in the published code:

* ``X.apply(...)`` and ``X().apply(...)`` are the same call.
* ``logits`` have any shape and are ranked together. A negative is an entry whose target is 0; every entry that is
  neither negative nor positive is ignored, -1 by convention. A positive has a target above 0 in ``RankSort``, and a
  target equal to 1 in ``APLoss`` and ``aLRPLoss``, which ignore an IoU of 0.7.
* Values and gradients are means over the positives, so the caller does not scale them.
* One gradient belongs to the whole call. Backward multiplies it by the upstream gradient of the *first* output and
  ignores those of the others. So ``(ranking + sorting).backward()`` of ``RankSort`` is right, ``sorting.backward()``
  alone gives zeros, and in ``a * ranking + b * sorting`` only ``a`` counts.
* The negatives below ``min(logits of positives) - delta`` take no part: they cannot change a precision.

What differs on purpose:

* **Without positives** the published code raises the error of ``torch.min`` of an empty tensor, so callers guard
  against it. Here values are 0 and gradients are zeros; a guard does no harm.
* **A logit that takes part and is not finite** makes the values and the gradient NaN. The published code silently drops
  negatives of NaN and -inf, and counts those of inf. An entry that must not take part has the target -1.
* **Precision.** Sums are in float64. Results are float32 for half-precision logits and float64 for float64 logits; the
  published results are always float32, of sums in the precision of the logits.
* ``delta = 0`` is the unsmoothed step with H(0) = 1 in all three, as in ``RankSort``. The published ``APLoss`` and
  ``aLRPLoss`` divide by 0 there, and return NaN if logits tie.
* Arguments of a wrong type, shape or size raise an error that names them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .core.alrp import ranks_with_self_as_one, whole_errors
from .core.arguments import check_delta, check_tensors
from .core.entries import Entries, find_positives, flatten, scatter_gradient
from .core.interpolated_ap import interpolated_update
from .core.negatives import CountedNegatives, Negatives, count_negatives, relevant_negatives
from .core.positives import RankedPositives, rank_positives

__all__ = ['APLoss', 'RankSort', 'aLRPLoss']


class RankSort:
    """RS Loss (Oksuz et al., Rank & Sort Loss for Object Detection and Instance Segmentation, ICCV 2021) as published.

    The same loss as :func:`bucketed_losses.functional.rs_loss`, with the published convention for gradients.
    """

    @staticmethod
    def apply(
        logits: Tensor,
        targets: Tensor,
        delta_RS: float = 0.50,  # noqa: N803
        eps: float = 1e-10,
    ) -> tuple[Tensor, Tensor]:
        """The ranking and the sorting error of the positives (Eq. 7 and 8 there), two scalars.

        Args:
            logits: Scores before the sigmoid, any shape, any floating-point dtype.
            targets: Same shape, any real dtype: 0 negative, above 0 positive with its IoU, below 0 ignored.
            delta_RS: Half-width of the smoothed step H, in logits; 0, or at least 1e-9.
            eps: A positive with ``FP(i) <= eps`` gets no update of the ranking error, and one with
                ``sum_k H(x_ik) [t_k < t_i] <= eps`` none of the sorting error. The values count both.

        Returns:
            ``(ranking_error, sorting_error)``. The gradient of their sum is multiplied by the upstream gradient of
            ``ranking_error``; that of ``sorting_error`` is ignored.

        Raises:
            TypeError: An argument is of the wrong type or dtype.
            ValueError: Shapes or devices differ, or ``delta_RS`` is negative, not finite or too small.
        """
        check_tensors(logits, targets)
        ranked = _rank(logits, targets, delta_RS, sort=True, least_missorted=eps)
        if ranked is None:
            ranking, sorting = _connected_zeros(logits, targets, 2)
            return ranking, sorting
        positives, false_positives = ranked.positives, ranked.counted.false_positives
        ranks = positives.ranks + false_positives
        ranking_errors = false_positives / ranks
        updates = false_positives > eps
        gradient = ranked.gradient(
            positive=positives.sorting_grad - torch.where(updates, ranking_errors, 0),
            negative=torch.where(updates, 1 / ranks, 0),  # l_R(i) / FP(i), to be multiplied by H(x_ij)
        )
        ranking, sorting = ranked.values(ranking_errors.mean(), positives.sorting.mean())
        ranking, sorting = _with_gradient_of_first(logits, gradient, ranking, sorting)
        return ranking, sorting


class APLoss:
    """AP Loss (Chen et al., Towards Accurate One-Stage Object Detection with AP-Loss, CVPR 2019) as published with
    aLRP Loss: with interpolated precisions.

    The same loss as :func:`bucketed_losses.functional.ap_loss` with ``interpolated=True``, except that an entry whose
    target is neither 0 nor 1 is ignored.
    """

    @staticmethod
    def apply(logits: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
        """One minus the interpolated average precision, a scalar.

        Args:
            logits: Scores before the sigmoid, any shape, any floating-point dtype.
            targets: Same shape, any real dtype: 0 negative, 1 positive, all else ignored.
            delta: Half-width of the smoothed step H, in logits; 0, or at least 1e-9.

        Raises:
            TypeError: An argument is of the wrong type or dtype.
            ValueError: Shapes or devices differ, or ``delta`` is negative, not finite or too small.
        """
        check_tensors(logits, targets)
        check_delta(delta)
        update = interpolated_update(logits, _labels(targets), delta, None, group='local')
        (value,), (own,) = update.values, update.positive_grads
        gradient = scatter_gradient(
            logits.numel(),
            update.positive_indices,
            own,
            update.negative_indices,
            update.negative_grads,
            own.new_ones(()),
        )
        return _with_gradient_of_first(logits, gradient, value)[0]


class aLRPLoss:  # noqa: N801
    """The classification part of aLRP Loss (Oksuz et al., A Ranking-based, Balanced Loss Function Unifying
    Classification and Localisation in Object Detection, NeurIPS 2020) as published.

    Callers compute the localisation part from the ranks and the order::

        loss_cls, rank, order = aLRPLoss.apply(logits, targets, regression_losses)
        above = regression_losses[order].flip(0).cumsum(0)
        loss_bbox = (above / rank[order].detach().flip(0)).mean()

    :func:`bucketed_losses.functional.alrp_loss` does both.
    """

    @staticmethod
    def apply(
        logits: Tensor, targets: Tensor, regression_losses: Tensor, delta: float = 1.0, eps: float = 1e-5
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The classification error, and what the localisation error needs.

        Args:
            logits: Scores before the sigmoid, any shape, any floating-point dtype.
            targets: Same shape, any real dtype: 0 negative, 1 positive, all else ignored.
            regression_losses: ``(P,)`` errors of the boxes of the positives, in the order of the flattened logits. They
                get no gradient from this call.
            delta: Half-width of the smoothed step H, in logits; 0, or at least 1e-9.
            eps: A positive with ``FP(i) <= eps`` gets no update.

        Returns:
            ``(loss, rank, order)``. ``loss`` is the scalar ``mean_i FP(i) / rank(i)``. ``rank``, ``(P,)``, is
            ``1 + sum_{k != i} H(x_ik) + FP(i)`` of the positives in the order of the flattened logits; it is connected
            to ``logits``, but its upstream gradient is ignored. ``order``, ``(P,)`` int64, are the indices that sort
            the positives by their logits, lowest first.

        Raises:
            TypeError: An argument is of the wrong type or dtype.
            ValueError: Shapes or devices differ, ``delta`` is negative, not finite or too small, or there is not one
                regression loss for each positive.
        """
        check_tensors(logits, targets)
        labels = _labels(targets)
        ranked = _rank(logits, labels, delta)
        num_positives = 0 if ranked is None else len(ranked.positive_indices)
        if not isinstance(regression_losses, Tensor):
            raise TypeError(f'regression_losses must be a torch.Tensor, got {type(regression_losses).__name__}')
        if regression_losses.shape != (num_positives,):
            raise ValueError(
                f'regression_losses must have the shape ({num_positives},), one for each entry whose target is 1, '
                f'got {tuple(regression_losses.shape)}'
            )
        if ranked is None:
            (loss,) = _connected_zeros(logits, labels, 1)
            return loss, loss.new_zeros(0), loss.new_zeros(0, dtype=torch.int64)
        positives, false_positives = ranked.positives, ranked.counted.false_positives
        ranks = ranks_with_self_as_one(positives, false_positives, delta)
        box_errors = regression_losses.detach()
        errors = whole_errors(positives, box_errors, ranks, false_positives, delta, least_false_positives=eps)
        negative = torch.where(errors != 0, errors / false_positives, 0)
        gradient = ranked.gradient(positive=-errors, negative=negative)
        in_given_order = torch.empty_like(ranks).index_copy_(0, positives.order, ranks)
        loss, rank = ranked.values((false_positives / ranks).mean(), in_given_order)
        loss, rank, order = _with_gradient_of_first(logits, gradient, loss, rank, positives.order)
        return loss, rank, order


class _Ranked(NamedTuple):
    """The positives of a call, and the negatives seen from them."""

    entries: Entries
    positive_indices: Tensor
    positives: RankedPositives
    negatives: Negatives
    counted: CountedNegatives

    def gradient(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The gradient of all flattened logits, ``(N,)``; overwrites the logits of ``negatives``.

        Args:
            positive: P times the gradient of the positives, ``(P,)`` float64 in ascending order of their logits.
            negative: P times what a negative j gets per ``H(x_ij)`` from the positive i, in the same order.
        """
        num_positives = len(positive)
        own = torch.empty_like(positive).index_copy_(0, self.positives.order, positive / num_positives)
        own = own.to(self.entries.logits.dtype) + self.entries.nonfinite
        shares = self.counted.share(negative / num_positives, self.negatives.logits)
        return scatter_gradient(
            len(self.entries.logits), self.positive_indices, own, self.negatives.indices, shares, own.new_ones(())
        )

    def values(self, *values: Tensor) -> list[Tensor]:
        """The values in the dtype of the result; NaN if an entry that takes part is not finite."""
        return [value.to(self.entries.logits.dtype) + self.entries.nonfinite for value in values]


def _rank(
    logits: Tensor, targets: Tensor, delta: float, sort: bool = False, least_missorted: float = 0.0
) -> _Ranked | None:
    """Rank positives (targets above 0) and negatives (0), exactly; None if there is no positive."""
    check_delta(delta)
    entries = flatten(logits, targets)
    x, t = entries.logits, entries.targets
    positive_indices = find_positives(t)
    if len(positive_indices) == 0:
        return None
    own_logits, own_targets = x.index_select(0, positive_indices), t.index_select(0, positive_indices)
    positives = rank_positives(own_logits, own_targets, delta, sort, least_missorted)
    negatives = relevant_negatives(x, t, positives.floor)
    counted = count_negatives(positives, negatives.logits, delta, exact=True)
    return _Ranked(entries, positive_indices, positives, negatives, counted)


def _labels(targets: Tensor) -> Tensor:
    """1 where a target is 1, 0 where it is 0, -1 elsewhere; int8."""
    return (targets == 1).to(torch.int8).masked_fill_((targets != 0) & (targets != 1), -1)


def _connected_zeros(logits: Tensor, targets: Tensor, number: int) -> tuple[Tensor, ...]:
    """Values of a call without positives; NaN if a negative is not finite."""
    entries = flatten(logits, targets)
    values = [entries.nonfinite.clone() for _ in range(number)]
    return _with_gradient_of_first(logits, torch.zeros_like(entries.logits), *values)


def _with_gradient_of_first(logits: Tensor, gradient: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """The values as functions of ``logits``; ``gradient`` ``(N,)`` is that of the first, the others have none."""
    return _WithGradientOfFirst.apply(logits, gradient.view(logits.shape), values)


class _WithGradientOfFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, gradient: Tensor, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        ctx.dtype = logits.dtype
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *ignored: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * scale).to(ctx.dtype), None, None
