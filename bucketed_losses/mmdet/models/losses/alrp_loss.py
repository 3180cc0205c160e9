"""aLRP Loss in MMDetection's registry."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from torch import Tensor

from .... import functional
from .box_weighting import PositiveBoxes
from .ranking_losses import ImageRows, RankingLoss, entry_targets


@MODELS.register_module()
class aLRPLoss(RankingLoss):  # noqa: N801  (as its users know it)
    """aLRP Loss, :func:`bucketed_losses.functional.alrp_loss`; log names ``loss_cls`` and ``loss_bbox``.

    It ranks by the errors of the boxes, and is their loss, too: heads of this package hand it the box loss of every
    positive. The localisation is scaled by a self-balancing weight, ``(mean classification + mean localisation) / mean
    localisation`` over the epoch before; it is renewed when MMEngine begins another epoch, and kept in the state dict,
    so that a resumed run goes on with it. In a distributed run each process sums what it saw itself.

    Args:
        delta: Half-width of the smoothed step H of Eq. 2, in logits.
        loss_weight: Factor on both parts.
        use_sigmoid, scope: As for :class:`RankingLoss`.
        tau: IoU from which a detection is right: errors are ``box loss / (2 (1 - tau))``. In [0, 1).
        initial_balance: The self-balancing weight of the first epoch.
        renew_interval: Iterations after which the weight is renewed, instead of epochs. Iteration-based training, which
            MMEngine takes for a single epoch, needs it: iterations that go once through the data.
    """

    LOG_NAMES = ('loss_cls', 'loss_bbox')
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
    ) -> None:
        # It balances its own two parts; heads do not scale their box losses to it.
        super().__init__(delta, loss_weight, False, use_sigmoid, scope)
        if not 0 <= tau < 1:
            raise ValueError(f'aLRPLoss: tau must lie in [0, 1), got {tau}')
        if renew_interval is not None and renew_interval < 1:
            raise ValueError(f'aLRPLoss: renew_interval must be 1 or more iterations, or None, got {renew_interval}')
        self.tau = tau
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
        box_losses: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Both parts; arguments as for :meth:`RankingLoss.forward`, and the errors of the boxes.

        Args:
            positive: ``(num_pos,)`` int64 rows of the positives that are not ignored; needed.
            box_losses: ``(num_pos,)`` GIoU losses of their boxes, not weighted; needed.

        Returns:
            ``loss_cls`` and ``loss_bbox``.

        Raises:
            ValueError: without ``positive`` or ``box_losses``, which heads of this package give.
        """
        self._check_reduction(reduction_override)
        if positive is None or box_losses is None:
            raise ValueError(
                'aLRPLoss: it needs positive and box_losses, the box loss of every positive; use a head of this '
                'package (RankBased...)'
            )
        labels = target[0] if isinstance(target, (tuple, list)) else target
        targets = entry_targets(pred, labels, None, weight)
        errors = box_losses / (2 * (1 - self.tau))
        if self.needs_images:
            parts = self._each_image(pred, targets, positive, labels, errors, images)
        else:
            entries = positive * pred.size(1) + labels[positive]
            parts = functional.alrp_loss(
                pred, targets, errors, self.delta, positives=entries, group=self.group or 'local'
            )
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
        """Both parts, of the errors of the boxes; other losses of the boxes are left as they are."""
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
        parts = []
        for image, rows in enumerate(self.rows_of_images(images, len(pred))):
            # The functional takes errors in the order of the flattened logits.
            own = (images.image[positive] == image).nonzero().squeeze(1)
            own = own[positive[own].argsort()]
            parts.append(functional.alrp_loss(pred[rows], targets[rows], errors[own], self.delta))
        return functional.ALRP(*(torch.stack(list(part)).mean() for part in zip(*parts, strict=True)))

    def _keep_balance(self, parts: functional.ALRP, num_positives: int) -> None:
        hub = MessageHub.get_current_instance()
        epoch = hub.get_info('epoch' if self.renew_interval is None else 'iter', None)
        if epoch is not None and self.renew_interval is not None:
            epoch //= self.renew_interval
        if epoch is not None and epoch != self.epoch_seen:
            # The buffer, which a resumed run brings along, is read once per epoch: a read makes a GPU's host wait.
            self.epoch_seen = epoch
            if int(self.epoch) != epoch:
                self.epoch.fill_(epoch)
                self.renew_balance()
        if num_positives:
            self.sums += torch.stack([part.detach() for part in parts]).to(self.sums)

    def renew_balance(self) -> None:
        """Take the self-balancing weight from what was seen since the last time, and begin anew.

        Called at every epoch of MMEngine's, or every ``renew_interval`` iterations; a training loop of one's own may
        call it.
        """
        classification, localization = self.sums
        if localization > 0:
            self.balance.copy_((classification + localization) / localization)
        self.sums.zero_()

    def extra_repr(self) -> str:
        return f'delta={self.delta}, loss_weight={self.loss_weight}, tau={self.tau}, scope={self.scope!r}'
