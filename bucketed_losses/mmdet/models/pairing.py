"""Raises an error when a head is built with a ranking loss that it cannot train, or read."""

from __future__ import annotations

from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from .classifiers import ClassifierMixin
from .losses import RankingLoss
from .recipes import Role, no_ranking_form_of, recipe_of, recipes


def check_pairing(head: nn.Module, name: str, loss: nn.Module | None) -> None:
    """Check a ranking loss that becomes part of a head. PyTorch calls this for every submodule of every module.

    MMDetection's dense heads call their loss for each level separately and without the IoUs of the boxes. Its box heads
    call it once for all RoIs, but without IoUs: this suffices for AP losses, but not for RS losses. For a user's own
    head only the number of channels is checked.

    Raises:
        ValueError: ``loss`` is a ranking loss, and ``head`` is a head of MMDetection that cannot train it, or a head
            with a classifier that has a channel for background.
    """
    if not isinstance(loss, RankingLoss):
        return
    head_name, loss_name = type(head).__name__, type(loss).__name__
    recipe = recipe_of(type(head))
    if recipe is None and (refusal := no_ranking_form_of(type(head))):
        raise ValueError(f'{head_name} cannot train {loss_name}: {refusal.why({})}')
    # The heads of the Co-DETR baseline belong to this package, but they compute their losses as MMDetection does.
    stock = type(head).__module__.startswith('mmdet.') or recipe is not None
    if stock and not (_calls_its_loss_once(head) and not loss.needs_ious):
        if not isinstance(head, BBoxHead):
            why = 'it does not pass the predictions of all levels at once, nor the IoUs of their boxes, to its loss'
        elif loss.needs_ious:
            why = 'it does not pass IoUs of the predicted boxes to its loss'
        else:
            why = 'it does not compute its loss or its scores as BBoxHead does'
        raise ValueError(
            f'{head_name} cannot train {loss_name}: {why}; '
            + (
                f"use type='{recipe.head.__name__}'"
                if recipe
                else 'derive a head with RankingDenseHeadMixin, RankingHeadMixin or RankingBBoxHeadMixin before it'
            )
        )
    if isinstance(head, ClassifierMixin):  # it builds the right classifier, whatever its attributes mean
        return
    try:
        channels, num_classes = (getattr(head, key, None) for key in ('cls_out_channels', 'num_classes'))
    except (AttributeError, KeyError, TypeError):  # a module, such as that of torch.compile, that is not complete yet
        return
    if channels is not None and num_classes is not None and channels != num_classes:
        raise ValueError(
            f'{head_name}: {loss_name} needs a classifier with num_classes={num_classes} channels, got {channels}; a '
            'ranking loss has no background channel: write use_sigmoid=True in the config of loss_cls'
        )


def _calls_its_loss_once(head: nn.Module) -> bool:
    recipe = recipe_of(type(head))
    if recipe is not None and recipe.own_classifier:
        return False
    return isinstance(head, BBoxHead) and type(head).loss_and_target is BBoxHead.loss_and_target


def check_fusion(detector: nn.Module, name: str, fusion: nn.Module | None) -> None:
    """Check the fusion head of a detector whose mask head has a ranking loss. PyTorch calls this for every submodule.

    Raises:
        ValueError: The fusion head reads scores as a softmax with "no object", and those of the mask head are sigmoids.
    """
    recipe = recipe_of(type(fusion))
    if recipe is None or recipe.role is not Role.FUSION:
        return
    head = getattr(detector, 'panoptic_head', None)
    if isinstance(getattr(head, 'loss_cls', None), RankingLoss):
        raise ValueError(
            f'{type(head).__name__} has sigmoid scores, but {type(fusion).__name__} reads a softmax with "no object"; '
            f"use type='{recipe.head.__name__}' in {name}"
        )


def check_roi_head(roi_head: nn.Module, name: str, head: nn.Module | None) -> None:
    """Check the heads inside an RoI head with one stage. PyTorch calls this for every submodule.

    Raises:
        ValueError: A stock RoI head contains a head that needs all RoIs, or the scores of its boxes.
    """
    recipe = recipe_of(type(roi_head))
    if recipe is None or recipe.role is not Role.ROI:
        return
    if isinstance(head, tuple({inner.head for inner in recipes(Role.BOX, Role.MASK).values()})):
        raise ValueError(
            f'{type(roi_head).__name__} samples RoIs and passes no scores on, so it cannot train '
            f"{type(head).__name__}; use type='{recipe.head.__name__}'"
        )


register_module_module_registration_hook(check_pairing)
register_module_module_registration_hook(check_roi_head)
register_module_module_registration_hook(check_fusion)
