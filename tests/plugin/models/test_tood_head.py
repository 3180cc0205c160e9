"""TOOD: the logit of its score is ranked; its alignment metrics are the targets and the weights of the positives."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

from mmdet.models.dense_heads import TOODHead
from mmengine.logging import MessageHub
from small_anchor_heads import METAS
from small_dense_heads import NUM_CLASSES, OBJECTS, STRIDES, at, build_head, features, places, random_maps

import bucketed_losses.mmdet  # noqa: F401  (registers the head)


def outputs_of(head):
    """Random logits, and boxes in strides near the anchors, 4 strides wide."""
    cls_scores = random_maps(head(features(head))[0])
    boxes = []
    for level in cls_scores:
        _, _, height, width = level.shape
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
        corners = torch.stack([x - 2, y - 2, x + 2, y + 2]).float().expand(2, 4, height, width)
        noise = torch.rand(corners.shape, generator=torch.Generator().manual_seed(width))
        boxes.append((corners + 2 * noise - 1).requires_grad_())
    return cls_scores, boxes


def aligned_positives(head, cls_scores, bbox_preds):
    """Labels, target boxes and normalised metrics by place: Eq. 1 to 3 of the TOOD paper, by loops over places."""
    assigned = {}  # place: (IoU, object, metric)
    for image, objects in enumerate(OBJECTS):
        own = [place for place in places(cls_scores) if place[1] == image]
        for index, (box, label) in enumerate(zip(objects.bboxes, objects.labels, strict=True)):
            metrics = []
            for place in own:
                level, _, y, x = place
                # A logit of 0 counts as a probability of 0.01.
                score = (at(cls_scores, *place)[label] + math.log(0.01 / 0.99)).sigmoid().item()
                iou = giou(at(bbox_preds, *place).detach() * STRIDES[level], box)[1].item()
                metrics.append((score**head.alpha * iou**head.beta, iou, place))
            metrics.sort(key=lambda item: -item[0])
            for metric, iou, place in metrics[: head.alignment_assigner.topk]:
                level, _, y, x = place
                center = torch.tensor([x, y]) * STRIDES[level]
                inside = (center > box[:2] + 0.01).all() and (center < box[2:] - 0.01).all()
                if metric > 0 and inside and iou > assigned.get(place, (-1,))[0]:
                    assigned[place] = (iou, index, metric)
    found = {}
    for place, (_, index, metric) in assigned.items():
        mates = [values for other, values in assigned.items() if other[1] == place[1] and values[1] == index]
        quality = metric / max(m for _, _, m in mates) * max(u for u, _, _ in mates)
        objects = OBJECTS[place[1]]
        found[place] = (int(objects.labels[index]), objects.bboxes[index], quality)
    return found


def atss_positives(head, cls_scores, bbox_preds):
    """Labels and target boxes by place, by MMDetection's own ATSS assignment; the targets are the boxes' IoUs."""
    sizes = [level.shape[-2:] for level in cls_scores]
    _, labels, _, targets, _ = head.get_targets(
        None, None, *head.get_anchors(sizes, METAS, device='cpu'), OBJECTS, METAS
    )
    flat_labels, flat_targets = (torch.cat([level.flatten(0, 1) for level in part]) for part in (labels, targets))
    return {
        place: (int(label), target, None)
        for place, label, target in zip(places(cls_scores), flat_labels, flat_targets, strict=True)
        if label < NUM_CLASSES
    }


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
@pytest.mark.parametrize('epoch', [3, 4])
def test_losses_equal_a_slow_computation(epoch, loss):
    head = build_head('RankBasedTOODHead', loss)
    MessageHub.get_current_instance().update_info('epoch', epoch)
    cls_scores, bbox_preds = outputs_of(head)
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)

    found = (atss_positives if epoch < 4 else aligned_positives)(head, cls_scores, bbox_preds)
    entries, boxes = [], []
    for place in places(cls_scores):
        scores = at(cls_scores, *place)
        label, target, quality = found.get(place, (NUM_CLASSES, None, None))
        if label < NUM_CLASSES:
            loss_giou, iou = giou(at(bbox_preds, *place) * STRIDES[place[0]], target)
            weight = scores.detach().sigmoid().max() if quality is None else quality
            boxes.append((weight, {'loss_bbox': 2.0 * loss_giou}))
            quality = iou if quality is None else quality
        entries += entries_of(scores, label, quality)
    assert len(boxes) > 6
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *combined_losses(loss, entries, [boxes]))


def test_scores_and_boxes_are_those_of_the_stock_head():
    """The logits that are ranked are those of the scores that TOOD computes, also where these are near 0 or 1."""
    head = build_head('RankBasedTOODHead').eval()
    torch.nn.init.normal_(head.tood_cls.weight, std=3.0)
    for layer in (head.cls_prob_module[0], head.cls_prob_module[-1]):
        torch.nn.init.normal_(layer.weight, std=3.0)
    logits, boxes = head(features(head))
    scores, stock_boxes = TOODHead.forward(head, features(head))
    assert min(level.min() for level in scores) < 1e-3 and max(level.max() for level in scores) > 0.99
    for got, want in zip(logits, scores, strict=True):
        torch.testing.assert_close(got.sigmoid(), want, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(got, want) for got, want in zip(boxes, stock_boxes, strict=True))
    detections = head.predict_by_feat(logits, boxes, batch_img_metas=METAS)
    expected = TOODHead.predict_by_feat(head, scores, stock_boxes, batch_img_metas=METAS)
    for got, want in zip(detections, expected, strict=True):
        torch.testing.assert_close(got.bboxes, want.bboxes)
        torch.testing.assert_close(got.scores, want.scores)


@pytest.mark.parametrize('anchor_type', ['anchor_free', 'anchor_based'])
def test_both_kinds_of_boxes_train_after_the_first_epochs(anchor_type):
    head = build_head('RankBasedTOODHead', anchor_type=anchor_type)
    MessageHub.get_current_instance().update_info('epoch', 8)
    losses = head.loss_by_feat(*head(features(head)), OBJECTS, METAS)
    assert losses['loss_rank'] > 0 and losses['loss_bbox'] > 0
    sum(losses.values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]
