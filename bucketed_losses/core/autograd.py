"""The one autograd Function: it hands on a gradient that was computed together with the values."""

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
