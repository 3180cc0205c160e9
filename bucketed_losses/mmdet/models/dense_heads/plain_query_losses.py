"""The losses of queries without ranking, as in DETR: a classification loss, L1 and GIoU, each a mean over positives."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.losses import QualityFocalLoss
from mmdet.models.utils import rename_loss_dict, reweight_loss_dict
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor, nn

from ..losses.box_weighting import at_least_float32, mean_over_processes
from .query_sets import QuerySet, image_sizes


def plain_query_losses(
    head: DETRHead, loss_cls: nn.Module, sets: Sequence[QuerySet], batch_img_metas: list[dict]
) -> dict[str, Tensor]:
    """``loss_cls``, ``loss_bbox`` and ``loss_iou`` of each set by log name, Eq. 16.

    Args:
        head: The head whose box losses and settings are used.
        loss_cls: A classification loss of MMDetection with sigmoid scores, e.g. ``FocalLoss``.
        sets: Predictions of the same images.
        batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
    """
    losses: dict[str, Tensor] = {}
    for one in sets:
        parts = reweight_loss_dict(_losses_of_a_set(head, loss_cls, one, batch_img_metas), one.weight)
        losses |= rename_loss_dict(one.prefix, parts)
    return losses


def cannot_train_queries(loss_cls: nn.Module, num_classes: int) -> str | None:
    """The error of a classification loss that is called as here, with a positive and a negative; None if it works."""
    labels = torch.tensor([0, num_classes])
    target = (labels, torch.ones(2)) if isinstance(loss_cls, QualityFocalLoss) else labels
    try:
        deepcopy(loss_cls)(torch.zeros(2, num_classes), target, torch.ones(2), avg_factor=torch.ones(()))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return f'{type(error).__name__}: {error}'
    return None


def _losses_of_a_set(
    head: DETRHead, loss_cls: nn.Module, one: QuerySet, batch_img_metas: list[dict]
) -> dict[str, Tensor]:
    logits, boxes = at_least_float32(one.logits).flatten(0, 1), at_least_float32(one.boxes)
    sizes = image_sizes(batch_img_metas, boxes).unsqueeze(1)
    target_boxes = one.targets.boxes.to(boxes)
    pixels, target_pixels = ((bbox_cxcywh_to_xyxy(some) * sizes).flatten(0, 1) for some in (boxes, target_boxes))
    labels, weights = one.targets.labels.flatten(), one.targets.weights.flatten()
    positive = (labels < head.num_classes) & (weights > 0)
    num_local = positive.sum().to(boxes.dtype)
    num_pos = mean_over_processes(num_local).clamp(min=1)
    box_weights = positive[:, None].expand(-1, 4).to(boxes.dtype)
    target: Tensor | tuple[Tensor, Tensor] = labels
    if isinstance(loss_cls, QualityFocalLoss):
        target = labels, bbox_overlaps(pixels.detach(), target_pixels, is_aligned=True)
    avg_factor = num_pos if head.sync_cls_avg_factor else num_local.clamp(min=1)
    boxes, target_boxes = boxes.flatten(0, 1), target_boxes.flatten(0, 1)
    return {
        # Without queries, some losses are not connected to the predictions.
        'loss_cls': loss_cls(logits, target, weights, avg_factor=avg_factor) if len(logits) else logits.sum() * 0,
        'loss_bbox': head.loss_bbox(boxes, target_boxes, box_weights, avg_factor=num_pos),
        'loss_iou': head.loss_iou(pixels, target_pixels, box_weights, avg_factor=num_pos),
    }
