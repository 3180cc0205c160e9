"""The ranking and the sorting error with their Identity Update (Eq. 8, 14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .distributed import ProcessGroup
from .negatives import count_negatives
from .positives import RankedPositives


class IdentityUpdate(NamedTuple):
    """Value and gradient of the ranking and of the sorting error."""

    ranking: Tensor
    """Scalar, ``mean_i l_R(i)``."""
    sorting: Tensor
    """Scalar, ``mean_i (l_S(i) - l*_S(i))``."""
    negative_grads: list[Tensor]
    """Gradient of ``ranking`` with respect to the negatives, in pieces ``(n,)``; that of ``sorting`` is 0."""
    positive_grads: Tensor
    """Gradients of ``ranking`` and of ``sorting`` with respect to the positives, ``(2, P)``, in their given order."""


def identity_update(
    positives: RankedPositives,
    negatives: Sequence[Tensor],
    delta: float,
    exact: bool,
    group: ProcessGroup | None = None,
) -> IdentityUpdate:
    """Values and Identity Update of ranked positives and negatives; never synchronises with the host.

    Args:
        positives: From :func:`rank_positives`.
        negatives: Logits in pieces ``(n,)``. Those below the floor of the positives may be left out: they get no
            gradient and change no bit of the result. The gradients may overwrite them.
        delta: Half-width of H.
        exact: The edges of the buckets are the positives +- delta instead of the positives.
        group: Processes with the same positives, and negatives of their own.
    """
    num_positives = len(positives.logits)
    counted = count_negatives(positives, negatives, delta, exact, group)
    ranks = positives.ranks + counted.false_positives
    ranking_errors = counted.false_positives / ranks  # l_R(i), Eq. 9

    # The gradient of a negative is sum_i H(x_ij) / rank(i) / P (Eq. 14, S.22).
    negative_grads = counted.share(1 / (num_positives * ranks), negatives)

    grads = torch.stack([-ranking_errors, positives.sorting_grad]) / num_positives
    positive_grads = torch.empty_like(grads).index_copy_(1, positives.order, grads)
    return IdentityUpdate(ranking_errors.mean(), positives.sorting.mean(), negative_grads, positive_grads)
