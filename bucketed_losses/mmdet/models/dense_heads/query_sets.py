"""Sets of query predictions with their targets, and one-to-one matching.

A detector with queries computes its losses for many sets of predictions: those of each decoder layer, of the encoder's
proposals, and of each group of auxiliary or denoising queries.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..losses.box_weighting import at_least_float32


class QueryTargets(NamedTuple):
    """The training targets of queries.

    Attributes:
        labels: ``(batch, n)`` class indices, ``num_classes`` for background.
        weights: ``(batch, n)``, 0 for queries that do not contribute to the losses.
        boxes: ``(batch, n, 4)`` ground-truth boxes of the positives, in the form of the predicted boxes.
        positive: ``(num_pos,)`` int64 rows of the positives with a weight above 0, among the ``batch * n`` queries in
            the order of the images. If it is None, the losses find them, and the host waits for an accelerator.
    """

    labels: Tensor
    weights: Tensor
    boxes: Tensor
    positive: Tensor | None = None


class QuerySet(NamedTuple):
    """The predictions of one set of queries, and what the losses need of it.

    Attributes:
        prefix: The beginning of the log names of its losses.
        logits: ``(batch, n, num_classes)``.
        boxes: ``(batch, n, 4)``, normalised cx cy w h, or the form that ``both_forms`` of the head takes.
        targets: The targets of the same queries.
        weight: The factor on all losses of the set.
    """

    prefix: str
    logits: Tensor
    boxes: Tensor
    targets: QueryTargets
    weight: float = 1.0


class MaskTargets(NamedTuple):
    """The training targets of queries that predict masks.

    Attributes:
        labels: ``(batch, n)`` class indices, ``num_classes`` for background.
        weights: ``(batch, n)``, 0 for queries that do not contribute to the losses.
        objects: ``(num_pos,)`` int64 indices of the objects of the positives, among those of all images.
        positive: ``(num_pos,)`` int64 rows of the positives, as in :class:`QueryTargets`.
    """

    labels: Tensor
    weights: Tensor
    objects: Tensor
    positive: Tensor


class MaskSet(NamedTuple):
    """The predictions of one set of queries that predict masks, and what the losses need of it.

    Attributes:
        prefix: The beginning of the log names of its losses.
        logits: ``(batch, n, num_classes)``.
        masks: ``(batch, n, h, w)`` mask logits, or ``(batch, n, num_frames, h, w)`` of videos.
        targets: The targets of the same queries.
        weight: The factor on all losses of the set.
    """

    prefix: str
    logits: Tensor
    masks: Tensor
    targets: MaskTargets
    weight: float = 1.0


def match_queries(
    head: DETRHead,
    logits: Tensor,
    boxes: Tensor,
    batch_gt_instances: InstanceList,
    batch_img_metas: list[dict],
    valid: Tensor | None = None,
) -> QueryTargets:
    """One-to-one targets by the head's assigner.

    The assigner cannot compare predictions that are not finite. An image with such predictions is matched as if it had
    no objects, and the losses become NaN. The host waits for an accelerator several times for each image, because the
    assigner runs on the host.

    Args:
        head: The head whose assigner is used.
        logits: ``(batch, n, num_classes)``, as the costs of the assigner read them.
        boxes: ``(batch, n, 4)``, normalised cx cy w h.
        batch_gt_instances: Objects of each image.
        batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
        valid: ``(batch, n)`` bool, False for predictions that must not be matched with an object; they get weight 0.
            None: all predictions are valid.
    """
    # In float16, the cost of a class can be infinite.
    logits, boxes = at_least_float32(logits.detach()), at_least_float32(boxes.detach())
    batch, num = logits.shape[:2]
    labels = torch.full((batch * num,), head.num_classes, device=logits.device)
    weights, target_boxes = boxes.new_zeros(batch * num), boxes.new_zeros(batch * num, 4)
    all_positive = []
    for image, objects in enumerate(batch_gt_instances):
        rows = torch.arange(num, device=logits.device) if valid is None else valid[image].nonzero().squeeze(1)
        own_logits, own_boxes = logits[image].index_select(0, rows), boxes[image].index_select(0, rows)
        own_labels, own_weights, own_targets, _, positive, _ = head._get_targets_single(
            own_logits, own_boxes, objects_to_match(objects, own_logits, own_boxes), batch_img_metas[image]
        )
        rows = rows + image * num
        labels[rows] = own_labels
        weights[rows] = own_weights.to(weights.dtype)
        target_boxes[rows] = own_targets.to(target_boxes.dtype)
        all_positive.append(rows.index_select(0, positive))
    return QueryTargets(
        labels.view(batch, num),
        weights.view(batch, num),
        target_boxes.view(batch, num, 4),
        torch.cat(all_positive),
    )


def objects_to_match(objects: InstanceData, logits: Tensor, boxes: Tensor) -> InstanceData:
    """The objects of an image, or none if a prediction is not finite: assigners cannot compare such predictions."""
    return objects if logits.isfinite().all() & boxes.isfinite().all() else objects[:0]


def matched_layers(
    head: DETRHead,
    all_layers_logits: Tensor,
    all_layers_boxes: Tensor,
    batch_gt_instances: InstanceList,
    batch_img_metas: list[dict],
    valid: Sequence[Tensor | None] | None = None,
) -> list[QuerySet]:
    """The predictions of every decoder layer, each matched with the objects.

    Args:
        head: A head with a method ``match`` (:meth:`QueryRankingMixin.match`).
        all_layers_logits: ``(num_layers, batch, n, num_classes)``.
        all_layers_boxes: ``(num_layers, batch, n, 4)``, normalised cx cy w h.
        batch_gt_instances, batch_img_metas: As for :func:`match_queries`.
        valid: The argument of this name of :func:`match_queries`, for each layer.
    """
    num_layers = len(all_layers_logits)
    return [
        QuerySet(
            layer_prefix(layer, num_layers),
            logits,
            boxes,
            head.match(logits, boxes, batch_gt_instances, batch_img_metas, chosen),
        )
        for layer, (logits, boxes, chosen) in enumerate(
            zip(all_layers_logits, all_layers_boxes, valid or [None] * num_layers, strict=True)
        )
    ]


def matched_proposals(
    head: DETRHead,
    prefix: str,
    logits: Tensor | None,
    boxes: Tensor | None,
    batch_gt_instances: InstanceList,
    batch_img_metas: list[dict],
    valid: Tensor | None = None,
) -> list[QuerySet]:
    """The encoder's proposals, matched with the objects: one set, or none if there are no proposals.

    Args:
        head: As for :func:`matched_layers`.
        prefix: The beginning of the log names.
        logits: ``(batch, n, num_classes)``, or None.
        boxes: ``(batch, n, 4)``, normalised cx cy w h, or None.
        batch_gt_instances: Objects of each image.
        batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
        valid: As for :func:`match_queries`.
    """
    if logits is None or boxes is None:
        return []
    return [QuerySet(prefix, logits, boxes, head.match(logits, boxes, batch_gt_instances, batch_img_metas, valid))]


def image_sizes(batch_img_metas: list[dict], like: Tensor) -> Tensor:
    """``(batch, 4)``: width, height, width and height of each image in pixels; :func:`to_device`."""
    return to_device([meta['img_shape'][1::-1] * 2 for meta in batch_img_metas], like)


def of_first_class(batch_gt_instances: InstanceList) -> InstanceList:
    """The same objects, all of the first class: it stands for "object" in the encoder of Deformable DETR."""
    objects = copy.deepcopy(batch_gt_instances)
    for image in objects:
        image.labels = torch.zeros_like(image.labels)
    return objects


def layer_prefix(layer: int, num_layers: int) -> str:
    """The prefix of log names of a decoder layer. As in MMDetection, the last layer has none."""
    return '' if layer == num_layers - 1 else f'd{layer}.'


def to_device(values: Sequence[float] | Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Numbers of the host as a tensor on the device of ``like``, of its dtype; the host does not wait for the copy.

    It does wait in ``torch.tensor(values, device=...)`` and in ``Tensor.new_tensor``.
    """
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
