"""The interface of MMDetection's losses for a loss with a value for each (prediction, class) entry."""

from __future__ import annotations

from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn


class EntryLoss(nn.Module):
    """The base class of the comparators; a subclass computes the losses of entries in :meth:`entry_losses`.

    Args:
        loss_weight: Factor on the loss.
        use_sigmoid: Must be True; accepted because MMDetection's heads read it from the loss's config.

    Raises:
        ValueError: ``use_sigmoid`` is False.
    """

    def __init__(self, loss_weight: float = 1.0, use_sigmoid: bool = True) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError(f'{type(self).__name__}: use_sigmoid must be True, got {use_sigmoid}')
        self.loss_weight = loss_weight
        self.use_sigmoid = use_sigmoid

    def entry_losses(self, pred: Tensor, target: Tensor) -> Tensor:
        """``(n, num_classes)`` losses of logits and targets of that shape and of one dtype."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            pred: ``(n, num_classes)`` logits.
            target: ``(n, num_classes)``: the IoU of a positive, above 0, at its class; 0 elsewhere.
            weight: ``(n, num_classes)`` or ``(n, 1)`` factors, or None.
            avg_factor: Divisor of the sum, usually the number of positives.
            reduction_override: 'none', 'mean' (the default) or 'sum'.

        Returns:
            A scalar; ``(n, num_classes)`` with 'none'.
        """
        loss = self.entry_losses(pred, target.type_as(pred))
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction_override or 'mean', avg_factor)
