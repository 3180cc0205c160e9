"""RepPoints: the boxes of the refined points are ranked; both stages have a box loss at their own positives."""

from __future__ import annotations

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

from small_anchor_heads import METAS
from small_dense_heads import NUM_CLASSES, OBJECTS, STRIDES, at, build_head, features, places, random_maps

import bucketed_losses.mmdet  # noqa: F401  (registers the head)


def box_of(head, pts_preds, place):
    """Mean and standard deviation of the points (RepPoints paper, moment-based conversion), in pixels."""
    level, _, y, x = place
    points = (at(pts_preds, *place).reshape(-1, 2).flip(1) + torch.tensor([x, y])) * STRIDES[level]
    center = points.mean(dim=0)
    half = ((points - center) ** 2).sum(dim=0).div(len(points) - 1).sqrt() * head.moment_transfer.exp()
    return torch.cat([center - half, center + half])


def stage(head, name, proposals):
    """Labels, weights and target boxes of a stage, by MMDetection's assigners."""
    sizes = [(64 // stride, 64 // stride) for stride in STRIDES]
    _, flags = head.get_points(sizes, METAS, 'cpu')
    levels = head.get_targets(proposals, flags, OBJECTS, METAS, stage=name)
    return [torch.cat([level.flatten(0, 1) for level in part]) for part in levels[:3]]


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_equal_a_slow_computation(loss):
    head = build_head('RankBasedRepPointsHead', loss)
    torch.nn.init.constant_(head.moment_transfer, 0.3)
    cls_scores, first, refined = head(features(head))
    cls_scores, first, refined = (
        random_maps(cls_scores),
        random_maps(first, 2.0, seed=3),
        random_maps(refined, 2.0, seed=4),
    )
    losses = head.loss_by_feat(cls_scores, first, refined, OBJECTS, METAS)

    centers, _ = head.get_points([level.shape[-2:] for level in cls_scores], METAS, 'cpu')
    proposals = [
        [
            torch.stack(
                [box_of(head, first, place).detach() for place in places(cls_scores) if place[:2] == (level, image)]
            )
            for level in range(len(STRIDES))
        ]
        for image in range(2)
    ]
    labels_init, _, targets_init = stage(head, 'init', centers)
    labels, weights, targets = stage(head, 'refine', proposals)
    assert not torch.equal(labels, labels_init)
    entries, first_boxes, refined_boxes = [], [], []
    for index, place in enumerate(places(cls_scores)):
        scores, iou = at(cls_scores, *place), None
        weight = scores.detach().sigmoid().max()
        if labels_init[index] < NUM_CLASSES:
            loss_giou = giou(box_of(head, first, place), targets_init[index])[0]
            first_boxes.append((weight, {'loss_pts_init': 0.5 * loss_giou}))
        if labels[index] < NUM_CLASSES:
            loss_giou, iou = giou(box_of(head, refined, place), targets[index])
            refined_boxes.append((weight, {'loss_pts_refine': 3.0 * loss_giou}))
        entries += entries_of(scores, int(labels[index]), iou, range(NUM_CLASSES) if weights[index] == 0 else ())
    assert len(first_boxes) == 5 and len(refined_boxes) > 5
    maps = [*cls_scores, *first, *refined]
    assert_equal_losses(losses, maps, *combined_losses(loss, entries, [first_boxes, refined_boxes]))


@pytest.mark.parametrize(
    'kwargs', [dict(transform_method='minmax', use_grid_points=True), dict(transform_method='partial_minmax')]
)
def test_other_forms_of_boxes_train(kwargs):
    head = build_head('RankBasedRepPointsHead', **kwargs)
    losses = head.loss_by_feat(*head(features(head)), OBJECTS, METAS)
    assert all(value > 0 for value in losses.values())
    sum(losses.values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]


def test_initial_boxes_may_be_assigned_as_anchors():
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
    settings = dict(assigner=assigner, pos_weight=-1)
    head = build_head('RankBasedRepPointsHead', train_cfg=dict(init=settings, refine=settings))
    losses = head.loss_by_feat(*head(features(head)), OBJECTS, METAS)
    assert all(value > 0 for value in losses.values())
