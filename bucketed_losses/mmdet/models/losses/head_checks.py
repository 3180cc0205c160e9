"""Checks of the arguments that a head is built with: whether they allow training with a ranking loss."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mmdet.models.losses import CIoULoss, DIoULoss, EIoULoss, GIoULoss, IoULoss, SIoULoss
from mmdet.models.task_modules.assigners import ClassificationCost
from mmdet.models.task_modules.samplers import PseudoSampler
from torch import nn

from .ranking_losses import RankingLoss

BOX_LOSSES = (IoULoss, GIoULoss, DIoULoss, CIoULoss, EIoULoss, SIoULoss)
"""MMDetection's losses on decoded boxes with one weight per box. Others are on deltas or weight coordinates."""


def takes_decoded_boxes(loss: type) -> bool:
    """Whether the class of a box loss can be computed on decoded boxes, with one weight per box.

    This holds for MMDetection's losses in :data:`BOX_LOSSES`, and not for its other losses. A subclass is treated as
    its nearest base class of MMDetection. A class without one is the user's own, and it is assumed to hold.
    """
    for ancestor in loss.__mro__:
        if ancestor in BOX_LOSSES:
            return True
        if ancestor.__module__.startswith('mmdet.'):
            return False
    return True


def check_head_losses(head: nn.Module, box_losses: Iterable[str] = ('loss_bbox',)) -> None:
    """Check that ``loss_cls`` of a head is a ranking loss, and that its box losses take decoded boxes.

    Args:
        head: The head, with its losses.
        box_losses: Attributes that are box losses.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss, or a box loss does not take decoded boxes
            (:func:`takes_decoded_boxes`).
    """
    check_ranks(head, instead="MMDetection's own head")
    for name in box_losses:
        loss = type(getattr(head, name))
        if not takes_decoded_boxes(loss):
            raise ValueError(
                f'{type(head).__name__}: {name} must be a loss on decoded boxes such as GIoULoss, got '
                f"{loss.__name__}; write {name}=dict(_delete_=True, type='GIoULoss')"
            )


def check_ranks(head: nn.Module, instead: str) -> None:
    """Check that ``loss_cls`` of a head is a ranking loss.

    Args:
        head: The head, with its losses.
        instead: The head that the message recommends for other losses.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss.
    """
    if not isinstance(head.loss_cls, RankingLoss):
        raise ValueError(
            f'{type(head).__name__}: loss_cls must be a ranking loss (APLoss, BucketedAPLoss, RSLoss, '
            f'BucketedRSLoss, aLRPLoss or DRLoss), got {type(head.loss_cls).__name__}; use {instead} with that loss'
        )


def check_no_sampling(head: nn.Module) -> None:
    """Check that a dense head has no sampler that leaves anchors or locations out; many heads have none at all.

    Raises:
        ValueError: The sampler is not a ``PseudoSampler``.
    """
    sampler = getattr(head, 'sampler', None)
    if sampler is not None and not isinstance(sampler, PseudoSampler):
        raise ValueError(
            f'{type(head).__name__}: a ranking loss needs no sampling, got {type(sampler).__name__}; write '
            "sampler=dict(_delete_=True, type='PseudoSampler') in the head's train_cfg"
        )


def check_sigmoid_costs(head: nn.Module, assigner: object) -> None:
    """Check that no cost of one-to-one matching reads a softmax.

    Args:
        head: The head, for the message.
        assigner: Its assigner; None if it has none.

    Raises:
        ValueError: There is a ``ClassificationCost``.
    """
    if any(isinstance(cost, ClassificationCost) for cost in getattr(assigner, 'match_costs', ())):
        raise ValueError(
            f'{type(head).__name__}: ClassificationCost reads a softmax, and a ranking loss has one sigmoid per class; '
            "write dict(type='FocalLossCost', weight=4.0) in match_costs instead"
        )


def prior_logit(head: nn.Module, probability: float, argument: str) -> float:
    """The logit of a probability.

    Raises:
        ValueError: It does not lie in (0, 1); the message names ``head`` and its ``argument``.
    """
    if not 0 < probability < 1:
        raise ValueError(f'{type(head).__name__}: {argument} must lie in (0, 1), got {probability}')
    return math.log(probability / (1 - probability))


def check_decodes_boxes(head: nn.Module, reg_decoded_bbox: bool) -> None:
    """Check that ``reg_decoded_bbox`` is True, before the head is built with it.

    Raises:
        ValueError: It is False.
    """
    if not reg_decoded_bbox:
        raise ValueError(
            f'{type(head).__name__}: reg_decoded_bbox must be True, got False; the targets of the positives are the '
            'IoUs of decoded boxes, and the box loss needs decoded boxes too'
        )
