"""The losses as ``nn.Module``, torch only: hyper-parameters in the constructor, the rest as in ``functional``.

For MMDetection there are registered modules of the same names in :mod:`bucketed_losses.models`, which take labels and
IoUs per box instead of targets per logit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from . import functional
from .functional import RankSort


class _Loss(nn.Module):
    """What the four share.

    Args:
        delta: Half-width of the smoothed step H of Eq. 2, in logits; finite, 0 or more.
        group: Processes whose logits are ranked together, e.g. ``torch.distributed.group.WORLD``; this one alone if
            None.
    """

    def __init__(self, delta: float, group: Any = None) -> None:
        super().__init__()
        self.delta = delta
        self.group = group

    def extra_repr(self) -> str:
        return f'delta={self.delta}'


class APLoss(_Loss):
    """Exact AP Loss, :func:`bucketed_losses.functional.ap_loss`."""

    def __init__(self, delta: float = 1.0, group: Any = None) -> None:
        super().__init__(delta, group)

    def forward(self, logits: Tensor, targets: Tensor, positives: Tensor | None = None) -> Tensor:
        """A scalar; arguments as for the function."""
        return functional.ap_loss(logits, targets, self.delta, positives, self.group)


class BucketedAPLoss(APLoss):
    """The paper's Bucketed AP Loss, :func:`bucketed_losses.functional.bucketed_ap_loss`."""

    def forward(self, logits: Tensor, targets: Tensor, positives: Tensor | None = None) -> Tensor:
        return functional.bucketed_ap_loss(logits, targets, self.delta, positives, self.group)


class RSLoss(_Loss):
    """Exact RS Loss, :func:`bucketed_losses.functional.rs_loss`."""

    def __init__(self, delta: float = 0.5, group: Any = None) -> None:
        super().__init__(delta, group)

    def forward(self, logits: Tensor, targets: Tensor, positives: Tensor | None = None) -> RankSort:
        """``ranking`` and ``sorting``, two scalars whose sum is the loss; arguments as for the function."""
        return functional.rs_loss(logits, targets, self.delta, positives, self.group)


class BucketedRSLoss(RSLoss):
    """The paper's Bucketed RS Loss, :func:`bucketed_losses.functional.bucketed_rs_loss`."""

    def forward(self, logits: Tensor, targets: Tensor, positives: Tensor | None = None) -> RankSort:
        return functional.bucketed_rs_loss(logits, targets, self.delta, positives, self.group)
