"""aLRP Loss in MMDetection's registry."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from torch import Tensor

from .... import functional
from .box_weighting import PositiveBoxes
from .ranking_losses import ImageRows, RankingLoss, RowSets, check_positive_rows, entry_targets


@MODELS.register_module()
class aLRPLoss(RankingLoss):  # noqa: N801  (the name in the paper)
    """aLRP Loss, :func:`bucketed_losses.functional.alrp_loss`; log names ``loss_cls`` and ``loss_bbox``.

    It uses the errors of the boxes and is also their loss: heads of this package pass it the box loss of every
    positive. A self-balancing weight multiplies the localisation part: ``(mean classification + mean localisation) /
    mean localisation`` over the previous epoch. The weight is renewed when MMEngine begins an epoch. It is saved in the
    state dict, so that a resumed run continues with it. In a distributed run, each process computes the means over its
    own batches. Batches whose losses are not finite do not count.

    Args:
        delta: Half-width of the smoothed step H of Eq. 2, in logits.
        loss_weight: Factor on both parts.
        use_sigmoid: As for :class:`RankingLoss`.
        scope: 'batch', 'global' or 'image', as for :class:`RankingLoss`. On an accelerator, the host waits once in a
            call with 'batch', and four times for each image with 'image'.
        tau: The smallest IoU of a correct detection, in [0, 1). Errors are ``box loss / (2 (1 - tau))``.
        initial_balance: The self-balancing weight of the first epoch.
        renew_interval: Number of iterations after which the weight is renewed; None renews it in each epoch.
            Iteration-based training needs it, because MMEngine counts such training as one epoch: set it to the number
            of iterations in one pass through the data.
        box_weights: 'ranks', as published: the weight of a box is the sum of ``1 / rank(i)`` over the positives i whose
            scores are not higher than its own. A class with low scores then hardly learns boxes. 'equal': the mean
            error of the boxes of this process.
    """

    LOG_NAMES = ('loss_cls', 'loss_bbox')
    SCOPES = ('batch', 'global', 'image')
    TAKES_SPARSE_TARGETS = False
    balances_itself = True
    needs_ious = True
    balance: Tensor
    sums: Tensor
    epoch: Tensor

    def __init__(
        self,
        delta: float = 1.0,
        loss_weight: float = 1.0,
        use_sigmoid: bool = True,
        scope: str = 'batch',
        tau: float = 0.5,
        initial_balance: float = 50.0,
        renew_interval: int | None = None,
        box_weights: str = 'ranks',
    ) -> None:
        # It balances its own two parts; heads do not scale their box losses to it.
        super().__init__(delta, loss_weight, False, use_sigmoid, scope)
        if not 0 <= tau < 1:
            raise ValueError(f'aLRPLoss: tau must lie in [0, 1), got {tau}')
        if renew_interval is not None and renew_interval < 1:
            raise ValueError(f'aLRPLoss: renew_interval must be 1 or more iterations, or None, got {renew_interval}')
        if box_weights not in ('ranks', 'equal'):
            raise ValueError(f"aLRPLoss: box_weights must be 'ranks' or 'equal', got {box_weights!r}")
        self.tau = tau
        self.box_weights = box_weights
        self.renew_interval = renew_interval
        self.register_buffer('balance', torch.tensor(float(initial_balance)))
        self.register_buffer('sums', torch.zeros(2))  # of classification and localisation, this epoch
        self.register_buffer('epoch', torch.tensor(-1))
        self.epoch_seen: int | None = None

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
        box_losses: Tensor | None = None,
        *,
        series: str = '',
    ) -> dict[str, Tensor]:
        """Both parts; arguments as for :meth:`RankingLoss.forward`, and the errors of the boxes.

        Args:
            positive: ``(num_pos,)`` int64 rows of the positives that are not ignored; required.
            box_losses: ``(num_pos,)`` unweighted GIoU losses of their boxes; required.

        Returns:
            ``loss_cls`` and ``loss_bbox``.

        Raises:
            ValueError: ``positive`` or ``box_losses`` is missing. Heads of this package pass both.
            ValueError: ``sets`` are given; or on the CPU, ``positive`` has a row of background.
        """
        self._check_reduction(reduction_override)
        self._check_takes_sets(sets)
        if positive is None or box_losses is None:
            raise ValueError(
                'aLRPLoss: it needs positive and box_losses, the box loss of every positive; use a head of this '
                'package (RankBased...)'
            )
        labels = target[0] if isinstance(target, (tuple, list)) else target
        targets = entry_targets(pred, labels, None, weight)
        check_positive_rows(pred, labels, positive)
        errors = box_losses / (2 * (1 - self.tau))
        if self.needs_images:
            parts = self._each_image(pred, targets, positive, labels, errors, images)
        else:
            entries = positive * pred.size(1) + labels[positive]
            parts = self._parts(pred, targets, errors, positives=entries, group=self.group or 'local')
        if self.training:
            self._keep_balance(parts, len(positive))
        return {
            'loss_cls': self.loss_weight * parts.classification,
            'loss_bbox': self.loss_weight * self.balance * parts.localization,
        }

    def losses_with_boxes(
        self,
        pred: Tensor,
        labels: Tensor,
        weight: Tensor,
        positive: Tensor,
        boxes: PositiveBoxes,
        images: ImageRows | None = None,
    ) -> dict[str, Tensor]:
        """Both parts, computed from the errors of the boxes; other losses of the boxes are not changed."""
        losses = self(pred, labels, weight, positive=positive, images=images, box_losses=boxes.errors())
        return {**losses, **boxes.other_losses}

    def _each_image(
        self,
        pred: Tensor,
        targets: Tensor,
        positive: Tensor,
        labels: Tensor,
        errors: Tensor,
        images: ImageRows | None,
    ) -> functional.ALRP:
        if images is None:
            raise ValueError("aLRPLoss: scope='image' needs the image of every row; use a head of this package")
        self.check_images(images, len(pred))
        parts = []
        for image in range(max(images.num_images, 1)):
            rows = (images.image == image).nonzero().squeeze(1)
            # The function takes errors in the order of the flattened logits.
            own = (images.image[positive] == image).nonzero().squeeze(1)
            own = own[positive[own].argsort()]
            parts.append(self._parts(pred[rows], targets[rows], errors[own]))
        return functional.ALRP(*(torch.stack(list(part)).mean() for part in zip(*parts, strict=True)))

    def _parts(self, pred: Tensor, targets: Tensor, errors: Tensor, **options: Any) -> functional.ALRP:
        parts = functional.alrp_loss(pred, targets, errors, self.delta, **options)
        if self.box_weights == 'equal':
            return parts._replace(localization=errors.sum() / max(len(errors), 1))
        return parts

    def _keep_balance(self, parts: functional.ALRP, num_positives: int) -> None:
        hub = MessageHub.get_current_instance()
        epoch = hub.get_info('epoch' if self.renew_interval is None else 'iter', None)
        if epoch is not None and self.renew_interval is not None:
            epoch //= self.renew_interval
        if epoch is not None and epoch != self.epoch_seen:
            # A resumed run restores the buffer. It is read only once per epoch, because the host waits for the GPU.
            self.epoch_seen = epoch
            if int(self.epoch) != epoch:
                self.epoch.fill_(epoch)
                self.renew_balance()
        if num_positives:
            new = torch.stack([part.detach() for part in parts]).to(self.sums)
            self.sums += torch.where(new.isfinite().all(), new, 0)

    def renew_balance(self) -> None:
        """Compute the self-balancing weight from the sums since the last renewal, and reset the sums.

        It is called in every epoch of MMEngine, or every ``renew_interval`` iterations. Other training loops can call
        it directly.
        """
        classification, localization = self.sums
        if localization > 0:
            self.balance.copy_((classification + localization) / localization)
        self.sums.zero_()

    def extra_repr(self) -> str:
        return (
            f'delta={self.delta}, loss_weight={self.loss_weight}, tau={self.tau}, scope={self.scope!r}, '
            f'box_weights={self.box_weights!r}'
        )
