"""Carries a loss that ranks nothing into the heads of this package: a comparator for studies."""

from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS
from torch import Tensor

from ..box_weighting import mean_over_processes
from ..ranking_losses import ImageRows, RankingLoss, RowSets, entry_targets


@MODELS.register_module()
class PointwiseLoss(RankingLoss):
    """A loss that treats every (prediction, class) entry separately, in a head made for ranking losses.

    A study can then change the classification loss of a detector and nothing else: the assignment, the targets, the
    weights of the box loss and, if wanted, self-balancing are those of the ranking head. Give the head
    ``classifier_prior=0.01``, the prior that MMDetection's heads start with.

    The loss is divided by the number of positives, averaged over processes and at least 1, as in MMDetection's ATSS
    and GFL. Log name: ``loss_cls``. It is not 0 without positives.

    Args:
        loss: Config of a loss that takes logits and targets ``(n, num_classes)``, and ``avg_factor``: ``FocalLoss``,
            ``QualityFocalLoss``, ``VarifocalLoss``, ``IABCELoss``, ``MatchabilityAwareLoss``.
        iou_targets: Whether the target of a positive is the IoU of its box. If False, it is 1, as for ``FocalLoss``.
        self_balancing: Whether heads scale their box loss to the value of this loss, as for an RS loss.
        box_weights: 'scores' or 'equal', as for :class:`RankingLoss`. 'scores' is also what MMDetection's GFL does.
        use_sigmoid: Must be True.
    """

    LOG_NAMES = ('loss_cls',)
    TAKES_SPARSE_TARGETS = False
    balances_itself = False
    needs_ious = True

    def __init__(
        self,
        loss: dict[str, Any],
        iou_targets: bool = True,
        self_balancing: bool = False,
        box_weights: str = 'scores',
        use_sigmoid: bool = True,
    ) -> None:
        # The scope makes heads average their divisors over processes, as MMDetection's heads do.
        super().__init__(0.0, 1.0, self_balancing, use_sigmoid, 'global', box_weights)
        self.loss = MODELS.build(loss)
        self.iou_targets = iou_targets

    def forward(
        self,
        pred: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        positive: Tensor | None = None,
        images: ImageRows | None = None,
        sets: RowSets | None = None,
        *,
        series: str = '',
    ) -> dict[str, Tensor]:
        """The loss of a batch; arguments as for :meth:`RankingLoss.forward`.

        Args:
            weight: ``(n,)``; rows with weight 0 are left out.
            positive, images, series: Not used.

        Returns:
            ``loss_cls``, a scalar.

        Raises:
            ValueError: ``weight`` has a value for each class, or ``sets`` are given.
        """
        self._check_reduction(reduction_override)
        self._check_takes_sets(sets)
        labels, ious = target if isinstance(target, (tuple, list)) else (target, None)
        targets = entry_targets(pred, labels, ious if self.iou_targets else None, None)
        if weight is not None:
            if weight.dim() != 1:
                raise ValueError(f'PointwiseLoss: weight must have the shape ({len(pred)},), got {tuple(weight.shape)}')
            pred, targets = pred[weight != 0], targets[weight != 0]
        num_positives = mean_over_processes((targets > 0).sum().to(targets.dtype), self.shared)
        return {'loss_cls': self.loss(pred, targets, avg_factor=num_positives.clamp(min=1))}

    def extra_repr(self) -> str:
        return f'iou_targets={self.iou_targets}, self_balancing={self.self_balancing}'
