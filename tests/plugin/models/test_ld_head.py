"""LD: the teacher's distributions are a further target of the student's."""

from __future__ import annotations

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

from small_anchor_heads import METAS
from small_dense_heads import (
    HEAD_CONFIGS,
    NUM_CLASSES,
    OBJECTS,
    REG_MAX,
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

TEMPERATURE = 10


def ld_head(loss='BucketedRSLoss'):
    loss_ld = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=TEMPERATURE)
    return build_head('RankBasedLDHead', loss, **HEAD_CONFIGS['RankBasedGFLHead'], loss_ld=loss_ld)


def distances_of(distributions):
    return (distributions.reshape(4, REG_MAX + 1).softmax(dim=1) * torch.arange(REG_MAX + 1)).sum(dim=1)


def slow_dfl(logs, sides):
    """Cross-entropy with the two integers next to the true distance."""
    total = 0.0
    for log, side in zip(logs, sides, strict=True):
        distance = min(max(float(side), 0.0), REG_MAX - 0.1)
        low = int(distance)
        total = total - (low + 1 - distance) * log[low] - (distance - low) * log[low + 1]
    return total / 4


def slow_distillation(student, teacher):
    """KL divergence of softened distributions (LD paper, Eq. 4), a mean over bins, summed over the four sides."""
    student, teacher = ((part.reshape(4, REG_MAX + 1) / TEMPERATURE).log_softmax(dim=1) for part in (student, teacher))
    return TEMPERATURE**2 * (teacher.exp() * (teacher - student)).mean(dim=1).sum()


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_equal_a_slow_computation(loss):
    head = ld_head(loss)
    cls_scores, bbox_preds = head(features(head))
    teacher = random_maps(bbox_preds, 2.0, seed=5)
    cls_scores, bbox_preds = random_maps(cls_scores), random_maps(bbox_preds, 2.0, seed=3)
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS, teacher)

    anchors, flags = head.get_anchors([level.shape[-2:] for level in cls_scores], METAS, device='cpu')
    _, labels, _, targets, *_ = head.get_targets(anchors, flags, OBJECTS, METAS)
    labels, targets = (torch.cat([level.flatten(0, 1) for level in part]) for part in (labels, targets))
    entries, boxes, distilled = [], [], 0.0
    for index, place in enumerate(places(cls_scores)):
        level, _, y, x = place
        stride, point = STRIDES[level], torch.tensor([x, y]) * STRIDES[level]
        scores, target, iou = at(cls_scores, *place), targets[index], None
        if labels[index] < NUM_CLASSES:
            weight = scores.detach().sigmoid().max()
            student, soft = at(bbox_preds, *place), at(teacher, *place).detach()
            loss_giou, iou = giou(distance_box(point, distances_of(student) * stride), target)
            sides = torch.cat([point - target[:2], target[2:] - point]) / stride
            dfl = slow_dfl(student.reshape(4, REG_MAX + 1).log_softmax(dim=1), sides)
            boxes.append((weight, {'loss_bbox': 2.0 * loss_giou, 'loss_dfl': 0.25 * dfl}))
            distilled = distilled + weight * 0.25 * slow_distillation(student, soft) / 4
        entries += entries_of(scores, int(labels[index]), iou)
    assert len(boxes) > 3
    maps = [*cls_scores, *bbox_preds]
    expected = combined_losses(loss, entries, [boxes, [(1, {'loss_ld': distilled})]])
    assert_equal_losses(losses, maps, *expected)


def test_the_head_gets_the_teachers_outputs_and_the_teacher_no_gradient():
    head = ld_head()
    own, teacher = head(features(head))[1], random_maps(head(features(head))[1])
    losses = head.loss_by_feat(head(features(head))[0], own, OBJECTS, METAS, teacher)
    assert losses['loss_ld'] > 0
    sum(losses.values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]
    assert all(level.grad is None or not level.grad.any() for level in teacher)


def test_without_objects_losses_are_zero_and_connected():
    head = ld_head()
    outputs = head(features(head))
    losses = head.loss_by_feat(*outputs, objects(([], []), ([], [])), METAS, random_maps(outputs[1]))
    assert set(losses) == {'loss_rank', 'loss_sort', 'loss_bbox', 'loss_dfl', 'loss_ld'}
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in head.parameters())
