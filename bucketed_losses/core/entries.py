"""The entries of a call: flattened logits and targets on the way in, the gradient of all logits on the way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import devices


class Entries(NamedTuple):
    """Flattened logits and targets, detached."""

    logits: Tensor
    """``(n,)`` float32 or float64; half precision is promoted to float32."""
    targets: Tensor
    """``(n,)``."""
    nonfinite: Tensor
    """Scalar of the logits' dtype: NaN if an entry that takes part is not finite, else 0. The loss adds it, because a
    comparison could turn a non-finite logit into a finite loss."""


def flatten(logits: Tensor, targets: Tensor) -> Entries:
    """Flatten logits and targets of any one shape, and look for values that are not finite."""
    flat_logits = logits.detach().reshape(-1)
    if flat_logits.dtype in (torch.float16, torch.bfloat16):
        flat_logits = flat_logits.float()
    flat_targets = targets.detach().reshape(-1)
    nonfinite = flat_logits.new_zeros(())
    for x, t in devices.split(flat_logits, flat_targets):
        nonfinite += torch.where(t < 0, 0, x + t).mul_(0).sum()
    return Entries(flat_logits, flat_targets, nonfinite)


def find_positives(targets: Tensor) -> Tensor:
    """Indices ``(P,)`` int64 of the positives among flattened targets."""
    return (targets > 0).nonzero().squeeze(1)  # host synchronisation 1: how many positives


def scatter_gradient(
    num_entries: int,
    positive_indices: Tensor,
    positive_grads: Tensor,
    negative_indices: Sequence[Tensor | None],
    negative_grads: Sequence[Tensor],
    scale: Tensor,
) -> Tensor:
    """The gradient of all entries ``(num_entries,)``: that of the positives, and ``scale`` times that of the negatives.

    Args:
        num_entries: How many entries there are.
        positive_indices: ``(P,)`` int64.
        positive_grads: ``(P,)``.
        negative_indices: For each piece of the entries, indices into it, or None for all of it.
        negative_grads: For each piece, the gradients at these indices.
        scale: Scalar.
    """
    grad = positive_grads.new_zeros(num_entries)
    for (piece,), indices, negative_grad in zip(devices.split(grad), negative_indices, negative_grads, strict=False):
        if indices is None:
            piece.copy_(negative_grad * scale)
        else:
            piece.scatter_(0, indices, negative_grad * scale)
    return grad.scatter_(0, positive_indices, positive_grads)
