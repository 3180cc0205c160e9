"""Mask heads for detectors with a ranking loss: they weight each positive by its score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from torch import Tensor, nn

from ..losses.box_weighting import at_least_float32, mean_by_score
from ..recipes import Note, Part, Role, Rule, ranking_head

if TYPE_CHECKING:
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead as _Host
else:
    _Host = object

# The mask loss of the paper, as it is written in a config.
_DICE = "type='DiceLoss', eps=5e-6"


def _published_mask_loss() -> Rule:
    """A note on the mask loss of the paper; the mask loss of the config is not changed."""

    def apply(part: Part) -> Iterator[Note]:
        old = part.config.get('loss_mask')
        if not isinstance(old, dict) or 'Dice' not in str(old.get('type')):
            yield Note(f'the paper trains masks with loss_mask=dict({_DICE}); your mask loss is not changed')

    return Rule((), apply)


MASK_HEAD = (_published_mask_loss(),)
"""Rules of every mask head."""

WEIGHTED_MASKS = 'weights the loss of each mask by the score of its box'
"""The reason for the type of a mask head that the swap shows."""


class RankingMaskHeadMixin(_Host):
    """A mixin for ``FCNMaskHead`` and its subclasses: each positive is weighted by its highest class probability.

    The loss is ``sum_i p_i l_i / sum_i p_i`` over the positives, where ``p_i`` is the probability and ``l_i`` the mask
    loss of the mask of the positive's class, as for the box loss. A ranking RoI head passes the scores, and scales the
    loss to the ranking loss.

    Args:
        loss_mask: Config of a loss of mask logits with MMDetection's interface. It returns a value for each mask or for
            each pixel; the loss of a mask is the mean over its pixels. The published detectors use Dice Loss,
            ``1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + 1e-5)``, which is ``dict(type='DiceLoss', eps=5e-6)``: MMDetection
            adds ``eps`` twice. The default is that of ``FCNMaskHead``, ``CrossEntropyLoss`` with ``use_mask=True``. It
            has no value for each pixel, and is built with ``use_sigmoid=True`` instead: the same loss.
        logits_std: Standard deviation of the initial weights of the last layer. The default is MMDetection's
            initialisation, whose weights are larger if there are fewer classes. With few classes, the logits are so far
            from 0 that Dice Loss has almost no gradient; give 0.01 then.
        args, kwargs: As for the mask head.

    Attributes:
        shared: Whether the positives of all processes form one batch; the RoI head sets it from its ranking loss.

    Raises:
        ValueError: ``loss_mask`` is not a loss of mask logits, or ``logits_std`` is not positive, or the head has no
            layer ``conv_logits``.
    """

    shared = False

    def __init__(
        self, *args: Any, loss_mask: dict | None = None, logits_std: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, loss_mask=loss_of_each_pixel(loss_mask), **kwargs)
        _check_mask_loss(self, self.loss_mask)
        name = type(self).__name__
        if logits_std is not None and not logits_std > 0:
            raise ValueError(f'{name}: logits_std must be positive, got {logits_std}')
        if logits_std is not None and not hasattr(self, 'conv_logits'):
            raise ValueError(f'{name}: logits_std is for heads whose last layer is conv_logits; leave it out')
        self.logits_std = logits_std

    def init_weights(self) -> None:
        """Initialise the weights, those of the last layer with ``logits_std``."""
        super().init_weights()
        if self.logits_std is not None:
            torch.nn.init.normal_(self.conv_logits.weight, std=self.logits_std)

    def loss_and_target(
        self, mask_preds: Tensor, sampling_results: list, batch_gt_instances: InstanceList, rcnn_train_cfg: dict
    ) -> dict:
        """Mask loss of the positives; arguments as for :meth:`mmdet.models.FCNMaskHead.loss_and_target`.

        Each sampling result must also have ``pos_scores (num_pos,)``.

        Returns:
            A dict with ``mask_targets``, and with ``loss_mask``, which is itself a dict with ``loss_mask``. This loss
            is 0 and connected to the predictions if there are no positives.
        """
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        logits = logits_of_own_class(mask_preds, sampling_results, self.class_agnostic).flatten(1)
        losses = _loss_of_each_mask(self.loss_mask, logits, targets.flatten(1)) if len(logits) else logits.sum(dim=1)
        loss = mean_by_score(losses, scores_of(sampling_results), self.shared)
        return dict(loss_mask=dict(loss_mask=loss), mask_targets=targets)


@ranking_head(FCNMaskHead, role=Role.MASK, rules=MASK_HEAD, reason=WEIGHTED_MASKS)
@MODELS.register_module()
class RankBasedFCNMaskHead(RankingMaskHeadMixin, FCNMaskHead):
    """``FCNMaskHead`` with a loss that weights each positive by its highest class probability, as the box loss does.

    Use it in :class:`RankBasedRoIHead` or :class:`RankBasedCascadeRoIHead`. Arguments and errors are those of
    :class:`RankingMaskHeadMixin`.
    """


def scores_of(sampling_results: list) -> Tensor:
    """``(num_pos,)`` scores of the positives of all images.

    Raises:
        ValueError: The RoI head has not set them.
    """
    if not all(hasattr(result, 'pos_scores') for result in sampling_results):
        raise ValueError(
            'a mask head with weighted masks needs the scores of its boxes, which only the RoI heads of this package '
            "pass to it; write type='RankBased...' for the roi_head, too"
        )
    return torch.cat([result.pos_scores for result in sampling_results])


def logits_of_own_class(predictions: Tensor, sampling_results: list, class_agnostic: bool = False) -> Tensor:
    """``(num_pos, ...)`` logits for the class of each positive, at least float32.

    Args:
        predictions: ``(num_pos, num_classes, ...)`` logits.
        sampling_results: The positives of each image, with ``pos_gt_labels``.
        class_agnostic: Whether there is only one class of logits.
    """
    labels = torch.cat([result.pos_gt_labels for result in sampling_results])
    if class_agnostic:
        labels = torch.zeros_like(labels)
    index = labels.reshape(-1, *[1] * (predictions.dim() - 1)).expand(-1, 1, *predictions.shape[2:])
    return at_least_float32(predictions.gather(1, index).squeeze(1))


def loss_of_each_pixel(loss: dict | None) -> dict:
    """The config of a mask loss; cross-entropy with ``use_mask`` becomes the same loss with a value for each pixel."""
    loss = dict(loss or dict(type='CrossEntropyLoss', use_mask=True))
    if loss.pop('use_mask', False):
        loss['use_sigmoid'] = True
    return loss


def _loss_of_each_mask(loss_mask: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    """``(n,)`` losses of masks, from logits and binary targets ``(n, num_pixels)``."""
    losses = loss_mask(logits, targets, reduction_override='none')
    return losses.mean(dim=1) if losses.dim() == 2 else losses


def _check_mask_loss(head: nn.Module, loss_mask: nn.Module) -> None:
    """Check on two masks that a loss takes logits of masks: close to 0 for right masks, above 0 for wrong ones."""
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    logits = 50 * (2 * targets - 1)
    reason = None
    try:
        right, wrong = (_loss_of_each_mask(loss_mask, x, targets) for x in (logits, -logits))
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f'which fails with {type(error).__name__}: {error}'
    else:
        if right.shape != (2,):
            reason = f'whose values for 2 masks have the shape {tuple(right.shape)}'
        elif not right.abs().max() < 0.01 * wrong.min():
            reason = 'which is not close to 0 for the logits of right masks and above 0 for those of wrong ones'
    if reason is not None:
        raise ValueError(
            f'{type(head).__name__}: loss_mask must be a loss of mask logits with a value for each mask or pixel, got '
            f'{type(loss_mask).__name__}, {reason}; write loss_mask=dict(_delete_=True, {_DICE}) as published, or '
            "loss_mask=dict(_delete_=True, type='CrossEntropyLoss', use_mask=True)"
        )
