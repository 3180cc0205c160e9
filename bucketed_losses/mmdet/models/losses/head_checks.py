"""What a head must be built with to be trained with a ranking loss."""

from __future__ import annotations

import math

from mmdet.models.losses import CIoULoss, DIoULoss, EIoULoss, GIoULoss, IoULoss, SIoULoss
from torch import nn

from .ranking_losses import RankingLoss

BOX_LOSSES = (IoULoss, GIoULoss, DIoULoss, CIoULoss, EIoULoss, SIoULoss)
"""MMDetection's losses on decoded boxes with one weight per box. Its others are on deltas or weigh coordinates."""


def takes_decoded_boxes(loss: type) -> bool:
    """Whether the class of a box loss can be computed on decoded boxes, with one weight per box.

    Of MMDetection's losses, those in :data:`BOX_LOSSES` can. A class that derives from one of MMDetection's counts as
    that one. Any other class is the user's own and counts as one that can.
    """
    for ancestor in loss.__mro__:
        if ancestor in BOX_LOSSES:
            return True
        if ancestor.__module__.startswith('mmdet.'):
            return False
    return True


def check_head_losses(head: nn.Module, *box_losses: str) -> None:
    """Refuse a head whose ``loss_cls`` does not rank, or whose box losses cannot be weighted per decoded box.

    Args:
        head: The head, with its losses.
        box_losses: Attributes that are box losses; ``loss_bbox`` if none is given.

    Raises:
        ValueError: ``loss_cls`` is no ranking loss, or a box loss does not take decoded boxes
            (:func:`takes_decoded_boxes`).
    """
    check_ranks(head, instead="MMDetection's own head")
    for name in box_losses or ('loss_bbox',):
        loss = type(getattr(head, name))
        if not takes_decoded_boxes(loss):
            raise ValueError(
                f'{type(head).__name__}: {name} must be a loss on decoded boxes such as GIoULoss, got '
                f"{loss.__name__}; write {name}=dict(_delete_=True, type='GIoULoss')"
            )


def check_ranks(head: nn.Module, instead: str) -> None:
    """Refuse a head whose ``loss_cls`` does not rank.

    Args:
        head: The head, with its losses.
        instead: What to use with another loss, for the message.

    Raises:
        ValueError: ``loss_cls`` is no ranking loss.
    """
    if not isinstance(head.loss_cls, RankingLoss):
        raise ValueError(
            f'{type(head).__name__}: loss_cls must be a ranking loss (APLoss, BucketedAPLoss, RSLoss, '
            f'BucketedRSLoss, aLRPLoss or DRLoss), got {type(head.loss_cls).__name__}; use {instead} with that loss'
        )


def prior_logit(head: nn.Module, score_prior: float) -> float:
    """The logit of ``score_prior``: what is added to ranking logits where something reads them as probabilities.

    Raises:
        ValueError: ``score_prior`` does not lie in (0, 1); the message names ``head``.
    """
    if not 0 < score_prior < 1:
        raise ValueError(f'{type(head).__name__}: score_prior must lie in (0, 1), got {score_prior}')
    return math.log(score_prior / (1 - score_prior))


def check_decodes_boxes(head: nn.Module, reg_decoded_bbox: bool) -> None:
    """Refuse ``reg_decoded_bbox=False``, before the head is built with it.

    Raises:
        ValueError: it is False.
    """
    if not reg_decoded_bbox:
        raise ValueError(
            f'{type(head).__name__}: reg_decoded_bbox must be True, got False; the labels of the positives are the '
            'IoUs of decoded boxes, and so is the box loss'
        )
