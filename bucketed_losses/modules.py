"""The losses as ``torch.nn.Module``: settings in the constructor, tensors in the call; torch is the only import.

The arguments are those of :mod:`bucketed_losses.functional`. For MMDetection there are registered modules of the same
names in :mod:`bucketed_losses.mmdet.models.losses`, which take labels and IoUs per box instead of targets per logit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from . import functional
from .core.arguments import check_delta
from .core.distributed import Group, GroupReference
from .core.dr import NEGATIVE_TEMPERATURE, check_dr_settings
from .functional import ALRP, RankSort, SparseTargets

__all__ = ['APLoss', 'BucketedAPLoss', 'BucketedRSLoss', 'DRLoss', 'RSLoss', 'aLRPLoss']


class _RankingLoss(nn.Module):
    """What the losses that rank have in common.

    Args:
        delta: Half-width of the smoothed step H of Eq. 2, in logits; 0, or at least 1e-9.
        group: Processes whose logits are ranked together: 'local' for this process alone, 'world' for all processes,
            or a ``torch.distributed.ProcessGroup``. None means 'world', as everywhere in ``torch.distributed``, whose
            ``group.WORLD`` is None before ``init_process_group``. It is resolved at every call, so the module may be
            built before ``init_process_group``.

    Raises:
        TypeError: ``delta`` is not a number.
        ValueError: ``delta`` is negative, not finite or too small, or ``group`` is another string.
    """

    def __init__(self, delta: float, group: Group = 'local') -> None:
        super().__init__()
        check_delta(delta)
        self.delta = delta
        self._group = GroupReference(group)

    @property
    def group(self) -> Group:
        """Processes whose logits are ranked together."""
        return self._group.group

    @group.setter
    def group(self, group: Group) -> None:
        self._group = GroupReference(group)

    def extra_repr(self) -> str:
        return f'delta={self.delta}'


class APLoss(_RankingLoss):
    """Exact AP Loss, :func:`bucketed_losses.functional.ap_loss`.

    Args:
        delta, group: As for the function.
        interpolated: Interpolate precisions, as the published code does.

    Example:
        >>> import torch
        >>> from bucketed_losses.modules import APLoss
        >>> loss = APLoss(delta=0.0)
        >>> loss
        APLoss(delta=0.0)
        >>> loss(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0])).item()  # one negative in front of the positive
        0.5
    """

    def __init__(self, delta: float = 1.0, group: Group = 'local', *, interpolated: bool = False) -> None:
        super().__init__(delta, group)
        self.interpolated = interpolated

    def forward(
        self,
        logits: Tensor,
        targets: Tensor | SparseTargets,
        *,
        positives: Tensor | None = None,
        groups: Tensor | None = None,
        num_groups: int | None = None,
    ) -> Tensor:
        """A scalar; arguments as for the function."""
        return self._function(
            logits,
            targets,
            self.delta,
            positives=positives,
            group=self.group,
            groups=groups,
            num_groups=num_groups,
        )

    def _function(self, *args: Any, **kwargs: Any) -> Tensor:
        return functional.ap_loss(*args, interpolated=self.interpolated, **kwargs)

    def extra_repr(self) -> str:
        return super().extra_repr() + (', interpolated=True' if self.interpolated else '')


class BucketedAPLoss(APLoss):
    """The paper's Bucketed AP Loss, :func:`bucketed_losses.functional.bucketed_ap_loss`; it is not interpolated."""

    _function = staticmethod(functional.bucketed_ap_loss)

    def __init__(self, delta: float = 1.0, group: Group = 'local') -> None:
        super().__init__(delta, group)


class RSLoss(_RankingLoss):
    """Exact RS Loss, :func:`bucketed_losses.functional.rs_loss`."""

    _function = staticmethod(functional.rs_loss)

    def __init__(self, delta: float = 0.5, group: Group = 'local') -> None:
        super().__init__(delta, group)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor | SparseTargets,
        *,
        positives: Tensor | None = None,
        groups: Tensor | None = None,
        num_groups: int | None = None,
    ) -> RankSort:
        """``ranking`` and ``sorting``, two scalars; their ``total`` is the loss. Arguments as for the function."""
        return self._function(
            logits,
            targets,
            self.delta,
            positives=positives,
            group=self.group,
            groups=groups,
            num_groups=num_groups,
        )


class BucketedRSLoss(RSLoss):
    """The paper's Bucketed RS Loss, :func:`bucketed_losses.functional.bucketed_rs_loss`.

    Example:
        >>> import torch
        >>> from bucketed_losses.modules import BucketedRSLoss
        >>> loss = BucketedRSLoss()
        >>> logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0], requires_grad=True)
        >>> loss(logits, torch.tensor([0.0, 0.6, 0.0, 0.9, 0.0])).total.backward()
    """

    _function = staticmethod(functional.bucketed_rs_loss)


class aLRPLoss(_RankingLoss):  # noqa: N801
    """aLRP Loss, :func:`bucketed_losses.functional.alrp_loss`.

    Example:
        >>> import torch
        >>> from bucketed_losses.modules import aLRPLoss
        >>> logits, targets = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
        >>> classification, localization = aLRPLoss(delta=0.0)(logits, targets, torch.tensor([0.2, 0.4]))
        >>> classification.item()
        0.5
    """

    def __init__(self, delta: float = 1.0, group: Group = 'local') -> None:
        super().__init__(delta, group)

    def forward(self, logits: Tensor, targets: Tensor, box_errors: Tensor, *, positives: Tensor | None = None) -> ALRP:
        """``classification`` and ``localization``, two scalars; arguments as for the function."""
        return functional.alrp_loss(logits, targets, box_errors, self.delta, positives=positives, group=self.group)


class DRLoss(nn.Module):
    """DR Loss, :func:`bucketed_losses.functional.dr_loss`; arguments as for the function."""

    def __init__(
        self,
        margin: float = 0.5,
        positive_temperature: float = 1.0,
        negative_temperature: float = NEGATIVE_TEMPERATURE,
        smoothness: float = 6.0,
        scale: float = 4.0,
    ) -> None:
        super().__init__()
        check_dr_settings(margin, positive_temperature, negative_temperature, smoothness, scale)
        self.margin = margin
        self.positive_temperature = positive_temperature
        self.negative_temperature = negative_temperature
        self.smoothness = smoothness
        self.scale = scale

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A scalar; arguments as for the function."""
        return functional.dr_loss(
            logits,
            targets,
            self.margin,
            self.positive_temperature,
            self.negative_temperature,
            self.smoothness,
            self.scale,
        )

    def extra_repr(self) -> str:
        return f'margin={self.margin}, smoothness={self.smoothness}, scale={self.scale}'
