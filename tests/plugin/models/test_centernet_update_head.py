"""CenterNet-update: centres and locations with fitting boxes are positive; hot locations are ignored."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

from small_anchor_heads import METAS
from small_dense_heads import (
    NUM_CLASSES,
    OBJECTS,
    STRIDES,
    at,
    build_head,
    distance_box,
    features,
    objects,
    places,
    random_maps,
)

import bucketed_losses.mmdet  # noqa: F401  (registers the head)


def point_of(place):
    level, _, y, x = place
    return torch.tensor([x + 0.5, y + 0.5]) * STRIDES[level]


def box_of(bbox_preds, place):
    return distance_box(point_of(place), at(bbox_preds, *place) * STRIDES[place[0]])


def center_cell(box, level):
    center = ((box[:2] + box[2:]) / 2).tolist()
    return int(center[0] / STRIDES[level]), int(center[1] / STRIDES[level])


def on_level(head, box, level):
    """Half the diagonal of an object lies in the range of the level."""
    size = math.dist(box[:2].tolist(), box[2:].tolist()) / 2
    return head.regress_ranges[level][0] <= size <= head.regress_ranges[level][1]


def heat_of(head, place):
    """The heat of each class (CenterNet2's code, an exponential of squared distances from the centres)."""
    level, image, y, x = place
    heat = [0.0] * NUM_CLASSES
    for box, label in zip(OBJECTS[image].bboxes, OBJECTS[image].labels, strict=True):
        distance = math.dist(point_of(place).tolist(), ((box[:2] + box[2:]) / 2).tolist()) ** 2
        if (x, y) == center_cell(box, level):
            distance = 0.0
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        radius = max(((1 - 0.8) / (1 + 0.8)) ** 2 * 2 * area, head.hm_min_radius**2)
        value = math.exp(-distance / radius)
        heat[label] = max(heat[label], value if value >= 1e-4 else 0.0)
    return heat


def ranked_positives(head, bbox_preds):
    """Label and box of each positive place."""
    found = {}
    for image, gts in enumerate(OBJECTS):
        for box, label in zip(gts.bboxes, gts.labels, strict=True):
            errors = []
            for level, stride in enumerate(STRIDES):
                cx, cy = center_cell(box, level)
                for y in range(max(cy - 1, 0), min(cy + 2, 64 // stride)):
                    for x in range(max(cx - 1, 0), min(cx + 2, 64 // stride)):
                        place = (level, image, y, x)
                        point = point_of(place)
                        if (point >= box[:2]).all() and (point <= box[2:]).all():
                            center = (x, y) == (cx, cy) and on_level(head, box, level)
                            error = 0.0 if center else giou(box_of(bbox_preds, place).detach(), box)[0].item()
                            errors.append((error, place))
            ordered = sorted(error for error, _ in errors) + [math.inf] * head.more_pos_topk
            threshold = min(ordered[head.more_pos_topk - 1], head.more_pos_thresh)
            found.update({place: (int(label), box) for error, place in errors if error < threshold})
    return found


def box_target(head, place):
    """The object whose box a place regresses: inside, at most one cell from its centre, the nearest of its level."""
    level, image, y, x = place
    best = (math.inf, None)
    for box in OBJECTS[image].bboxes:
        cx, cy = center_cell(box, level)
        point = point_of(place)
        inside = (point > box[:2]).all() and (point < box[2:]).all()
        if inside and abs(x - cx) <= 1 and abs(y - cy) <= 1 and on_level(head, box, level):
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            radius = max(((1 - 0.8) / (1 + 0.8)) ** 2 * 2 * area, head.hm_min_radius**2)
            distance = math.dist(point.tolist(), ((box[:2] + box[2:]) / 2).tolist()) ** 2 / radius
            best = min(best, (0.0 if (x, y) == (cx, cy) else distance, box), key=lambda item: item[0])
    return best[1]


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
@pytest.mark.parametrize('soft', [False, True])
def test_losses_equal_a_slow_computation(soft, loss):
    head = build_head('RankBasedCenterNetUpdateHead', loss, soft_weight_on_reg=soft)
    cls_scores, bbox_preds = head(features(head))
    cls_scores, bbox_preds = random_maps(cls_scores), random_maps(bbox_preds, 3.0, seed=3, uniform=True)
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)

    ranked = ranked_positives(head, bbox_preds)
    entries, boxes, num_ignored = [], [], 0
    for place in places(cls_scores):
        scores, heat = at(cls_scores, *place), heat_of(head, place)
        label, target = ranked.get(place, (NUM_CLASSES, None))
        quality = None if target is None else giou(box_of(bbox_preds, place), target)[1]
        ignored = {c for c in range(NUM_CLASSES) if heat[c] > 0.16 and c != label}
        num_ignored += len(ignored)
        entries += entries_of(scores, label, quality, ignored)
        target = box_target(head, place)
        if target is not None:
            loss_giou = giou(box_of(bbox_preds, place), target)[0]
            weight = scores.detach().sigmoid().max() * (max(heat) if soft else 1)
            boxes.append((weight, {'loss_bbox': 2.0 * loss_giou}))
    assert len(ranked) > len(OBJECTS[0]) + len(OBJECTS[1]) and num_ignored > 5 and len(boxes) > 5
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *combined_losses(loss, entries, [boxes]))


@pytest.mark.parametrize('num_classes', [1, 3])
def test_one_image_without_objects_has_only_negatives(num_classes):
    head = build_head('RankBasedCenterNetUpdateHead', num_classes=num_classes)
    mixed = [OBJECTS[0][[0]], *objects(([], []))]
    mixed[0].labels = torch.zeros_like(mixed[0].labels)
    cls_scores, bbox_preds = head(features(head))
    cls_scores = [torch.zeros_like(level).requires_grad_() for level in cls_scores]
    sum(head.loss_by_feat(cls_scores, bbox_preds, mixed, METAS).values()).backward()
    # The loss pushes down every negative that is as high as a positive.
    assert all((level.grad[1] > 0).all() for level in cls_scores)


def test_a_heat_outside_0_1_is_refused():
    with pytest.raises(ValueError, match='ignored_heat'):
        build_head('RankBasedCenterNetUpdateHead', ignored_heat=1.5)
