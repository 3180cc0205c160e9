"""Targets of a caller who knows the positives: their indices and IoUs instead of one number for each logit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SparseTargets(NamedTuple):
    """What AP and RS Loss take in place of ``targets``, without a dense tensor: all other entries are negatives.

    Example:
        >>> import torch
        >>> from bucketed_losses import functional as F
        >>> logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0])
        >>> dense = torch.tensor([0.0, 0.6, 0.0, 0.9, 0.0])
        >>> sparse = F.SparseTargets(positives=torch.tensor([1, 3]), ious=torch.tensor([0.6, 0.9]))
        >>> bool(F.rs_loss(logits, sparse).total == F.rs_loss(logits, dense).total)
        True
    """

    positives: Tensor
    """``(P,)`` int64 indices of the positives among the flattened logits, without repetition."""
    ious: Tensor
    """``(P,)``, of a floating-point dtype, in [0, 1]: the IoU of each positive, in the same order."""
    ignored: Tensor | None = None
    """bool, in the shape of the logits: entries that take no part; None for none. A positive must not be among them."""

    def kinds(self, num_entries: int) -> Tensor:
        """0 for a negative, 1 for a positive and -1 for an ignored entry: ``(num_entries,)`` int8."""
        if self.ignored is None:
            kinds = torch.zeros(num_entries, dtype=torch.int8, device=self.positives.device)
        else:
            kinds = self.ignored.view(torch.int8).neg().reshape(-1)  # one pass, also if the mask is an expanded column
        return kinds.index_fill_(0, self.positives, 1)


def as_dense(
    targets: Tensor | SparseTargets, positive_indices: Tensor | None, logits: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A target for each logit, in their shape; the indices of the positives, if known; their IoUs, if sparse.

    Args:
        targets: Of the shape of ``logits``, or sparse.
        positive_indices: ``(P,)`` int64 into the flattened logits, or None; sparse targets have their own.
        logits: Any shape.
    """
    if isinstance(targets, SparseTargets):
        return targets.kinds(logits.numel()).view(logits.shape), targets.positives, targets.ious.detach()
    return targets, positive_indices, None
