"""FSAF: an object is trained on the level where its loss is smallest; the other levels are ignored for its class."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

from small_anchor_heads import METAS
from small_dense_heads import NUM_CLASSES, OBJECTS, STRIDES, at, build_head, features, places, random_maps

import bucketed_losses.mmdet  # noqa: F401  (registers the head)


def box_of(bbox_preds, place):
    """Distances to the top, bottom, left and right side in units of four strides."""
    level, _, y, x = place
    stride = STRIDES[level]
    top, bottom, left, right = at(bbox_preds, *place).clamp(min=1e-4) * 4 * stride
    return torch.stack([x * stride - left, y * stride - top, x * stride + right, y * stride + bottom])


def focal_loss(scores, label):
    """Summed over classes; a logit of 0 counts as a probability of 0.01."""
    total = 0.0
    for c, logit in enumerate(scores):
        p = 1 / (1 + math.exp(-float(logit) - math.log(0.01 / 0.99)))
        total -= 0.25 * (1 - p) ** 2 * math.log(p) if c == label else 0.75 * p**2 * math.log(1 - p)
    return total


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_equal_a_slow_computation(loss):
    head = build_head('RankBasedFSAFHead', loss)
    cls_scores, bbox_preds = head(features(head))
    cls_scores, bbox_preds = random_maps(cls_scores), random_maps(bbox_preds, uniform=True)
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)

    anchors, flags = head.get_anchors([level.shape[-2:] for level in cls_scores], METAS, device='cpu')
    labels, weights, _, _, _, objects = head.get_targets(anchors, flags, OBJECTS, METAS)
    labels, weights, objects = (
        torch.cat([level.flatten(0, 1) for level in part]) for part in (labels, weights, objects)
    )
    candidates = {}  # (image, object): level: losses
    for index, place in enumerate(places(cls_scores)):
        if labels[index] < NUM_CLASSES:
            level, image, *_ = place
            target = OBJECTS[image].bboxes[objects[index]]
            loss_giou = giou(box_of(bbox_preds, place), target)[0].item()
            value = focal_loss(at(cls_scores, *place), int(labels[index])) + 2.0 * loss_giou
            candidates.setdefault((image, int(objects[index])), {}).setdefault(level, []).append(value)
    best = {
        key: min(levels, key=lambda level: sum(levels[level]) / len(levels[level]))
        for key, levels in candidates.items()
    }
    assert set(best.values()) == {0, 1} and any(len(levels) == 2 for levels in candidates.values())

    entries, boxes, dropped = [], [], 0
    for index, place in enumerate(places(cls_scores)):
        scores, label, iou = at(cls_scores, *place), int(labels[index]), None
        ignored = {c for c in range(NUM_CLASSES) if weights[index, c] == 0}
        if label < NUM_CLASSES and best[place[1], int(objects[index])] != place[0]:
            ignored, label, dropped = {*ignored, label}, NUM_CLASSES, dropped + 1
        if label < NUM_CLASSES:
            loss_giou, iou = giou(box_of(bbox_preds, place), OBJECTS[place[1]].bboxes[objects[index]])
            boxes.append((scores.detach().sigmoid().max(), {'loss_bbox': 2.0 * loss_giou}))
        entries += entries_of(scores, label, iou, ignored)
    assert len(boxes) > 5 and dropped > 2
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *combined_losses(loss, entries, [boxes]))


def test_fresh_boxes_have_an_area():
    """Their sides are outputs of a ReLU, which would have no gradient if its inputs were negative."""
    head = build_head('RankBasedFSAFHead')
    sides = torch.cat([level.flatten() for level in head(features(head))[1]])
    assert (sides > 0).all() and sides.mean().item() == pytest.approx(0.25, abs=0.03)
