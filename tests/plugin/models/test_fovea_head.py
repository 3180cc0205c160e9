"""FoveaBox: objects are assigned to levels by their size and to cells near their centre."""

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
    places,
    random_maps,
)

import bucketed_losses.mmdet  # noqa: F401  (registers the head)


def assigned(head, place):
    """Label and target box of a cell (FoveaBox paper, Eq. 1 to 3); the smallest of several objects counts."""
    level, image, y, x = place
    stride, edge = STRIDES[level], head.base_edge_list[level]
    low, high = head.scale_ranges[level]
    found = (math.inf, NUM_CLASSES, None)
    for box, label in zip(OBJECTS[image].bboxes, OBJECTS[image].labels, strict=True):
        width, height = (box[2:] - box[:2]).tolist()
        size = math.sqrt(width * height)
        center = ((box[:2] + box[2:]) / 2).tolist()
        inside = all(
            abs((cell + 0.5) * stride - middle) <= head.sigma * extent / 2
            for cell, middle, extent in ((x, center[0], width), (y, center[1], height))
        )
        if low <= size <= high and inside and size < found[0]:
            point = torch.tensor([(x + 0.5) * stride, (y + 0.5) * stride])
            distances = torch.cat([point - box[:2], box[2:] - point]).clamp(edge / 16, 16 * edge)
            found = (size, int(label), distance_box(point, distances))
    return found[1:]


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_equal_a_slow_computation(loss):
    head = build_head('RankBasedFoveaHead', loss)
    cls_scores, bbox_preds = head(features(head))
    cls_scores, bbox_preds = random_maps(cls_scores), random_maps(bbox_preds, 0.5, seed=3)
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)

    entries, boxes = [], []
    for place in places(cls_scores):
        level, _, y, x = place
        scores, iou = at(cls_scores, *place), None
        label, target = assigned(head, place)
        if label < NUM_CLASSES:
            point = torch.tensor([(x + 0.5), (y + 0.5)]) * STRIDES[level]
            box = distance_box(point, at(bbox_preds, *place).exp() * head.base_edge_list[level])
            loss_giou, iou = giou(box, target)
            boxes.append((scores.detach().sigmoid().max(), {'loss_bbox': 2.0 * loss_giou}))
        entries += entries_of(scores, label, iou)
    assert len(boxes) > 10
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *combined_losses(loss, entries, [boxes]))


def test_aligned_features_train_also_under_bfloat16():
    head = build_head('RankBasedFoveaHead', with_deform=True, deform_groups=2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.loss_by_feat(*head(features(head)), OBJECTS, METAS)
    sum(losses.values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]


def test_points_far_from_the_corner_are_exact_in_bfloat16():
    """bfloat16 has 8 bits, so a cell at 1,300 pixels would be off by up to 4."""
    head = build_head('RankBasedFoveaHead', 'BucketedRSLoss')
    points = head.prior_generator.grid_priors([(1, 168)] * len(STRIDES), device='cpu')
    seen = []
    head.get_targets = lambda objects, sizes, given: (
        seen.extend(given) or head.__class__.get_targets(head, objects, sizes, given)
    )
    maps = [torch.zeros(len(OBJECTS), channels, 1, 168, dtype=torch.bfloat16) for channels in (NUM_CLASSES, 4)]
    head.loss_by_feat(*([one] * len(STRIDES) for one in maps), OBJECTS, METAS)
    for given, exact in zip(seen, points, strict=True):
        assert torch.equal(given, exact)
