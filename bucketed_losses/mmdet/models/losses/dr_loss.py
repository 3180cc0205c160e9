"""DR Loss in MMDetection's registry."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from torch import Tensor

from .... import functional
from ....core.dr import NEGATIVE_TEMPERATURE, check_dr_settings
from ....functional import SparseTargets
from .ranking_losses import RankingLoss


@MODELS.register_module()
class DRLoss(RankingLoss):
    """DR Loss, :func:`bucketed_losses.functional.dr_loss`; log name ``loss_cls``. It does not balance box losses.

    Args:
        margin, positive_temperature, negative_temperature, smoothness, scale: As for the function.
        loss_weight: Factor on the loss.
        use_sigmoid: Must be True.
        scope: 'batch' or 'image'; ranking over several processes is not supported. Unlike with the other losses, an
            image without positives has a loss, that of :func:`~bucketed_losses.functional.dr_loss` without positives.
    """

    LOG_NAMES = ('loss_cls',)
    SCOPES = ('batch', 'image')
    TAKES_SPARSE_TARGETS = False
    balances_itself = False
    needs_ious = False

    def __init__(
        self,
        margin: float = 0.5,
        positive_temperature: float = 1.0,
        negative_temperature: float = NEGATIVE_TEMPERATURE,
        smoothness: float = 6.0,
        scale: float = 4.0,
        loss_weight: float = 1.0,
        use_sigmoid: bool = True,
        scope: str = 'batch',
    ) -> None:
        super().__init__(0.0, loss_weight, False, use_sigmoid, scope)
        check_dr_settings(margin, positive_temperature, negative_temperature, smoothness, scale)
        self.settings = dict(
            margin=margin,
            positive_temperature=positive_temperature,
            negative_temperature=negative_temperature,
            smoothness=smoothness,
            scale=scale,
        )

    def rank(
        self,
        logits: Tensor,
        targets: Tensor | SparseTargets,
        groups: Tensor | None = None,
        num_groups: int | None = None,
    ) -> dict[str, Tensor]:
        assert isinstance(targets, Tensor)
        if groups is None or num_groups is None:
            return {'loss_cls': functional.dr_loss(logits, targets, **self.settings)}
        members = [groups == group for group in range(num_groups)]
        losses = [functional.dr_loss(logits[own], targets[own], **self.settings) for own in members]
        return {'loss_cls': torch.stack(losses)}

    def extra_repr(self) -> str:
        values = ', '.join(f'{name}={value:g}' for name, value in self.settings.items())
        return f'{values}, loss_weight={self.loss_weight}, scope={self.scope!r}'
