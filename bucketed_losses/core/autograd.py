"""Autograd Functions that hand on a gradient which was computed together with the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .entries import scatter_gradient


class ErrorDrivenUpdate(NamedTuple):
    """Values of a loss and their gradients with respect to the flattened logits.

    The first value has a gradient with respect to positives and negatives; further values have one with respect to
    positives only.
    """

    values: tuple[Tensor, ...]
    """``m`` scalars."""
    positive_indices: Tensor
    """``(P,)`` int64."""
    positive_grads: tuple[Tensor, ...]
    """``m`` times ``(P,)``, one for each value."""
    negative_indices: Sequence[Tensor | None] = ()
    """For each piece of the logits, indices into it, or None for all of it."""
    negative_grads: Sequence[Tensor] = ()
    """For each piece, the gradients of the first value at these indices."""
    num_processes: int = 1
    """What the gradient is multiplied by: averaging it over processes, as DDP does, then gives their sum."""


def with_gradient(logits: Tensor, update: ErrorDrivenUpdate) -> tuple[Tensor, ...]:
    """The values of ``update`` as functions of ``logits``, which have the gradient that ``update`` says."""
    return _WithGradient.apply(logits, update)


class FullUpdate(NamedTuple):
    """Values of a loss, and the gradient of the first one with respect to every entry, as one tensor."""

    values: tuple[Tensor, ...]
    """One or two; scalars, or ``(G,)`` for G groups; float64."""
    grad: Tensor
    """Of the first value, ``(n,)``; the values are cast to its dtype."""
    positive_indices: Tensor
    """``(P,)`` int64."""
    positive_grad: Tensor | None = None
    """Of the second value, with respect to the positives only, ``(P,)``; None if there is one value."""
    groups: Tensor | None = None
    """The group of each entry, ``(n,)`` int64, or None if the values are scalars."""


def with_full_gradient(logits: Tensor, update: FullUpdate) -> tuple[Tensor, ...]:
    """The values of ``update`` as functions of ``logits``, which have the gradient that ``update`` says."""
    if update.positive_grad is None:
        return (_OneValue.apply(logits, *update.values, update.grad, update.groups),)
    return _TwoValues.apply(
        logits, *update.values, update.grad, update.groups, update.positive_indices, update.positive_grad
    )


class _OneValue(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, value: Tensor, grad: Tensor, groups: Tensor | None) -> Tensor:
        return value.to(grad.dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        logits, _, grad, groups = inputs
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        ctx.save_for_backward(grad, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grad, groups = ctx.saved_tensors
        return (grad * _of_entries(scale, groups)).view(ctx.shape).to(ctx.dtype), None, None, None


class _TwoValues(torch.autograd.Function):
    @staticmethod
    def forward(
        logits: Tensor,
        first: Tensor,
        second: Tensor,
        grad: Tensor,
        groups: Tensor | None,
        positive_indices: Tensor,
        positive_grad: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return first.to(grad.dtype, copy=True), second.to(grad.dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        logits, _, _, *saved = inputs
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        ctx.save_for_backward(*saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor | None, ...]:
        grad, groups, positive_indices, positive_grad = ctx.saved_tensors
        own = None if groups is None else groups.index_select(0, positive_indices)
        total = grad * _of_entries(first, groups)
        total.index_add_(0, positive_indices, positive_grad * _of_entries(second, own))
        return total.view(ctx.shape).to(ctx.dtype), None, None, None, None, None, None


def _of_entries(scale: Tensor, groups: Tensor | None) -> Tensor:
    """The scale of each entry, from a scalar or from one scale for each group."""
    return scale if groups is None else scale.index_select(0, groups)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, update: ErrorDrivenUpdate) -> tuple[Tensor, ...]:
        ctx.shape, ctx.dtype, ctx.num_processes = logits.shape, logits.dtype, update.num_processes
        ctx.num_values, ctx.num_pieces = len(update.values), len(update.negative_grads)
        ctx.save_for_backward(
            update.positive_indices, *update.positive_grads, *update.negative_indices, *update.negative_grads
        )
        return update.values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *scales: Tensor) -> tuple[Tensor | None, ...]:
        positive_indices, *saved = ctx.saved_tensors
        positive_grads, pieces = saved[: ctx.num_values], saved[ctx.num_values :]
        negative_indices, negative_grads = pieces[: ctx.num_pieces], pieces[ctx.num_pieces :]
        scales = tuple(scale * ctx.num_processes for scale in scales)
        positive_grad = positive_grads[0] * scales[0]
        for grad, scale in zip(positive_grads[1:], scales[1:], strict=True):
            positive_grad = positive_grad + grad * scale
        grad = scatter_gradient(
            ctx.shape.numel(), positive_indices, positive_grad, negative_indices, negative_grads, scales[0]
        )
        return grad.reshape(ctx.shape).to(ctx.dtype), None
