"""LAD: a teacher assigns the objects, by its own probabilities; the student ranks what it was assigned."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import assert_equal_losses, slow_losses

pytest.importorskip('mmdet')

from small_anchor_heads import EACH, METAS, NUM_CLASSES, OBJECTS, build_head, features, instances, predictions_of
from small_dense_heads import random_maps

FOCAL = dict(type='FocalLoss', use_sigmoid=True)
NO_OBJECTS = [instances([], [])] * 2


def student_and_maps(name='BucketedRSLoss', seed=2):
    head = build_head(name, 'RankBasedLADHead')
    cls_scores, bbox_preds = head(features())
    return head, random_maps(cls_scores, seed=seed), random_maps(bbox_preds, 0.3, seed=seed + 1)


def stock_assignment(cls_scores, bbox_preds, objects=OBJECTS):
    """What a teacher of MMDetection says of its logits and deltas."""
    teacher = build_head(FOCAL, 'LADHead')
    ious = [level[:, ::4] for level in bbox_preds]
    with torch.no_grad():
        return teacher.get_label_assignment(cls_scores, bbox_preds, ious, objects, METAS)


def teacher_maps(seed=12):
    _, cls_scores, bbox_preds = student_and_maps(seed=seed)
    return [level.detach() for level in cls_scores], [level.detach() for level in bbox_preds]


@EACH
def test_losses_equal_a_slow_computation(name):
    head, cls_scores, bbox_preds = student_and_maps(name)
    assignment = stock_assignment(*teacher_maps())
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS, None, label_assignment_results=assignment)
    per_image = [part.chunk(2) for part in assignment[:3]]
    predictions = predictions_of(head, cls_scores, bbox_preds, assigned=per_image)
    positive = [prediction.label for prediction in predictions if prediction.label < NUM_CLASSES]
    assert len(positive) > 5 and set(positive) == {0, 1, 2}
    # The student alone would have other positives.
    own = head.assign(head.predictions_of_images(cls_scores, bbox_preds, METAS), OBJECTS, METAS)[0]
    assert not torch.equal(own, assignment[0])
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *slow_losses(name, predictions, 2.0))


@pytest.mark.parametrize('prior', [0.01, 0.2])
def test_a_ranked_teacher_lowers_its_logits(prior):
    """A stock teacher whose logits are lower by that of the prior assigns the same."""
    head = build_head('BucketedRSLoss', 'RankBasedLADHead', score_prior=prior)
    cls_scores, bbox_preds = teacher_maps()
    got = head.get_label_assignment(cls_scores, bbox_preds, OBJECTS, METAS)
    shift = math.log(prior / (1 - prior))
    wanted = stock_assignment([level + shift for level in cls_scores], bbox_preds)
    for index in (0, 1, 2, 4, 5):
        assert torch.equal(got[index], wanted[index]), index
    assert got[6] == wanted[6] > 5
    assert not torch.equal(got[0], stock_assignment(cls_scores, bbox_preds)[0])


def test_a_stock_student_reads_the_assignment_of_a_ranked_teacher():
    head = build_head('BucketedRSLoss', 'RankBasedLADHead')
    student = build_head(FOCAL, 'LADHead')
    for objects in (OBJECTS, NO_OBJECTS):
        assignment = head.get_label_assignment(*teacher_maps(), objects, METAS)
        losses = student.loss_by_feat(*student(features()), objects, METAS, None, label_assignment_results=assignment)
        assert all(value.isfinite() for value in losses.values())


def test_scope_image_is_the_mean_over_images():
    head, cls_scores, bbox_preds = student_and_maps(dict(type='RSLoss', scope='image'))
    alone = build_head('RSLoss', 'RankBasedLADHead')
    assignment = stock_assignment(*teacher_maps())[:3]

    def ranking(module, start, end):
        maps = ([level[start:end] for level in levels] for levels in (cls_scores, bbox_preds))
        part = [torch.cat(values.chunk(2)[start:end]) for values in assignment]
        return module.loss_by_feat(*maps, OBJECTS[start:end], METAS[start:end], None, part)['loss_rank'].item()

    assert ranking(head, 0, 2) == pytest.approx((ranking(alone, 0, 1) + ranking(alone, 1, 2)) / 2, rel=1e-5)
    assert ranking(head, 0, 2) != pytest.approx(ranking(alone, 0, 2), rel=5e-4)


def test_without_a_teacher_it_is_paa():
    heads = [build_head('RSLoss', head_type) for head_type in ('RankBasedLADHead', 'RankBasedPAAHead')]
    own, paa = (head.loss_by_feat(*head(features()), OBJECTS, METAS) for head in heads)
    assert own == paa


def test_every_parameter_gets_a_gradient_and_the_teacher_none():
    head = build_head('BucketedRSLoss', 'RankBasedLADHead')
    maps = [[level.requires_grad_() for level in levels] for levels in teacher_maps()]
    assignment = head.get_label_assignment(*maps, OBJECTS, METAS)
    assert not any(part.requires_grad for part in assignment if isinstance(part, torch.Tensor))
    losses = head.loss_by_feat(*head(features()), OBJECTS, METAS, None, assignment)
    sum(losses.values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]
    assert all('centerness' not in key for key in head.state_dict())


def test_without_objects_losses_are_zero_and_connected():
    head = build_head('BucketedRSLoss', 'RankBasedLADHead')
    assignment = stock_assignment(*teacher_maps(), NO_OBJECTS)
    losses = head.loss_by_feat(*head(features()), NO_OBJECTS, METAS, None, assignment)
    assert set(losses) == {'loss_rank', 'loss_sort', 'loss_bbox'} and all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in head.parameters())


@pytest.mark.parametrize('what', [0, 1], ids=['logits', 'boxes'])
def test_a_student_that_diverges_says_so(what):
    head, *maps = student_and_maps()
    maps[what] = [torch.full_like(level, math.nan) for level in maps[what]]
    losses = head.loss_by_feat(*maps, OBJECTS, METAS, None, stock_assignment(*teacher_maps()))
    assert not sum(losses.values()).isfinite()


@pytest.mark.parametrize('voting', [True, False])
def test_detections_are_those_of_paa(voting):
    """Bit for bit; those of PAA are compared with stock PAA's in test_dense_heads.py."""
    _, *maps = student_and_maps()
    own, paa = (
        build_head('RSLoss', head_type, score_voting=voting).predict_by_feat(*maps, batch_img_metas=METAS)
        for head_type in ('RankBasedLADHead', 'RankBasedPAAHead')
    )
    for one, other in zip(own, paa, strict=True):
        assert len(one) > 0 and all(torch.equal(one[key], other[key]) for key in ('bboxes', 'scores', 'labels'))
