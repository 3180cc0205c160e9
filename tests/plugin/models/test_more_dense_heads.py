"""Heads that are not of the paper get from the mixins what the others get; FCOS, GFL, RTMDet, VFNet against loops."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou, slow_losses

pytest.importorskip('mmdet')

from mmdet.models.dense_heads import ATSSHead
from mmdet.registry import MODELS
from small_anchor_heads import METAS, predictions_of
from small_dense_heads import (
    HEAD_CONFIGS,
    NUM_CLASSES,
    OBJECTS,
    POINTS,
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

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

HEADS = pytest.mark.parametrize('head_type', HEAD_CONFIGS)
LOSSES = pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
TWO_LOSSES = pytest.mark.parametrize('loss', ['APLoss', 'BucketedRSLoss'])
NUM_BIASES = {
    'RankBasedSSDHead': 2,
    'RankBasedTOODHead': 2,
    'RankBasedYOLOFHead': 2,
    'RankBasedYOLOV3Head': 2,
    'RankBasedYOLOXHead': 4,
}
# The other heads are compared with loops in files of their own.
COMPARED_HERE = ('FCOS', 'GFL', 'RTM', 'VFNet')
SCORE_PRIOR = {'RankBasedRTMDetHead': dict(score_prior=0.01)}


def outputs_of(head, seed=2):
    generator = torch.Generator().manual_seed(seed)
    in_pixels = any(name in type(head).__name__ for name in ('RTM', 'VFNet'))
    cls_scores, *box_maps = head(features(head))
    cls_scores = [torch.randn(x.shape, generator=generator).requires_grad_() for x in cls_scores]
    box_maps = [
        [(torch.rand(x.shape, generator=generator) * (20 if in_pixels else 3)).requires_grad_() for x in maps]
        for maps in box_maps
    ]
    return cls_scores, *box_maps


def assignments(head, cls_scores, bbox_preds):
    """Labels and target boxes in the order of :func:`places`, by MMDetection's own stock head."""
    name = type(head).__name__
    sizes = [level.shape[-2:] for level in cls_scores]
    if 'FCOS' in name:
        points = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device='cpu')
        labels, distances = head.get_targets(points, OBJECTS)
        targets = []
        for stride, level_points, level in zip(STRIDES, points, distances, strict=True):
            for index, distance in enumerate(level):
                targets.append(distance_box(level_points[index % len(level_points)], distance * stride))
        return torch.cat(labels), torch.stack(targets)
    anchors, flags = head.get_anchors(sizes, METAS, device='cpu')
    anchors = [[level.clone() for level in image] for image in anchors]
    if 'VFNet' in name:
        _, labels, _, targets, *_ = ATSSHead.get_targets(head, anchors, flags, OBJECTS, METAS)
    elif 'GFL' in name:
        _, labels, _, targets, *_ = head.get_targets(anchors, flags, OBJECTS, METAS)
    else:
        # A logit of 0 counts as a probability of 0.5, or of 0.01 with this prior.
        shift = math.log(0.01 / 0.99) if name in SCORE_PRIOR else 0
        scores = [x.permute(0, 2, 3, 1).reshape(2, -1, NUM_CLASSES) + shift for x in cls_scores]
        boxes = []
        for level, stride in enumerate(STRIDES):
            rows = [
                distance_box(torch.tensor([x * stride, y * stride]).float(), at(bbox_preds, level, image, y, x))
                for lv, image, y, x in places(bbox_preds)
                if lv == level
            ]
            boxes.append(torch.stack(rows).reshape(2, -1, 4))
        with torch.no_grad():
            _, labels, _, targets, *_ = head.get_targets(
                torch.cat(scores, 1), torch.cat(boxes, 1), anchors, flags, OBJECTS, METAS
            )
    flat = [torch.cat([level.flatten(0, 1) for level in part]) for part in (labels, targets)]
    return flat[0], flat[1]


def box_of(head, bbox_preds, place):
    """A predicted box in pixels, from the definition of each detector, and Distribution Focal Loss's inputs."""
    name = type(head).__name__
    level, _, y, x = place
    stride = STRIDES[level]
    values = at(bbox_preds, *place)
    if 'FCOS' in name:  # its points are the middles of the cells
        return distance_box(torch.tensor([(x + 0.5) * stride, (y + 0.5) * stride]), values * stride)
    if 'RTM' in name or 'VFNet' in name:
        return distance_box(torch.tensor([x * stride, y * stride]).float(), values)
    distribution = values.reshape(4, REG_MAX + 1).softmax(dim=1)
    distances = (distribution * torch.arange(REG_MAX + 1)).sum(dim=1) * stride
    return distance_box(torch.tensor([x * stride, y * stride]).float(), distances)


def slow_dfl(head, bbox_preds, place, target):
    """Cross-entropy with the two integers beside the true distance, each in proportion to how near it is."""
    level, _, y, x = place
    stride = STRIDES[level]
    logs = at(bbox_preds, *place).reshape(4, REG_MAX + 1).log_softmax(dim=1)
    sides = [x * stride - target[0], y * stride - target[1], target[2] - x * stride, target[3] - y * stride]
    total = 0.0
    for side, log in zip(sides, logs, strict=True):
        distance = min(max(float(side) / stride, 0.0), REG_MAX - 0.1)
        low = int(distance)
        total = total - (low + 1 - distance) * log[low] - (distance - low) * log[low + 1]
    return total / 4


@LOSSES
@pytest.mark.parametrize('head_type', [name for name in HEAD_CONFIGS if any(key in name for key in COMPARED_HERE)])
def test_losses_equal_a_slow_computation(head_type, loss):
    head = build_head(head_type, loss, **SCORE_PRIOR.get(head_type, {}))
    cls_scores, *box_maps = outputs_of(head)
    bbox_preds = box_maps[-1]  # the refined ones
    maps = [*cls_scores, *(level for maps in box_maps for level in maps)]
    losses = head.loss_by_feat(cls_scores, *box_maps, OBJECTS, METAS)

    labels, targets = assignments(head, cls_scores, bbox_preds)
    entries, boxes = [], []
    for index, place in enumerate(places(cls_scores)):
        scores, label = at(cls_scores, *place), int(labels[index])
        iou = None
        if label < NUM_CLASSES:
            loss_giou, iou = giou(box_of(head, bbox_preds, place), targets[index])
            parts = {'loss_bbox': 2.0 * loss_giou}
            if 'VFNet' in head_type:
                first = giou(box_of(head, box_maps[0], place), targets[index])[0]
                parts = {'loss_bbox_rf': 3.0 * loss_giou, 'loss_bbox': 2.0 * first}
            if 'GFL' in head_type:
                parts['loss_dfl'] = 0.25 * slow_dfl(head, bbox_preds, place, targets[index])
            boxes.append((scores.detach().sigmoid().max(), parts))
        entries += entries_of(scores, label, iou)
    assert len(boxes) > 2
    assert_equal_losses(losses, maps, *combined_losses(loss, entries, [boxes]))


@LOSSES
def test_losses_of_retinanet_with_separate_norms_equal_a_slow_computation(loss):
    head = build_head('RankBasedRetinaSepBNHead', loss)
    cls_scores, bbox_preds = (random_maps(maps, seed) for seed, maps in enumerate(head(features(head)), start=2))
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)
    predictions = predictions_of(head, cls_scores, bbox_preds, OBJECTS)
    assert sum(p.label < NUM_CLASSES for p in predictions) > 2
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *slow_losses(loss, predictions, 2.0))


@TWO_LOSSES
@HEADS
def test_every_parameter_gets_a_gradient(head_type, loss):
    head = build_head(head_type, loss)
    sum(head.loss_by_feat(*head(features(head)), OBJECTS, METAS).values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]
    assert all('centerness' not in key for key in head.state_dict())


@TWO_LOSSES
@HEADS
def test_without_positives_losses_are_zero_and_connected(head_type, loss):
    head = build_head(head_type, loss)
    losses = head.loss_by_feat(*head(features(head)), objects(([], []), ([], [])), METAS)
    assert losses and all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in head.parameters())


@HEADS
def test_bias_starts_at_zero_and_fresh_detections_pass_the_threshold(head_type):
    head = build_head(head_type).eval()
    results = head.predict_by_feat(*head(features(head)), batch_img_metas=METAS)
    assert all(len(result) > 0 and (result.scores > 0.4).all() for result in results)


@pytest.mark.parametrize(
    ('head_type', 'objectness'),
    [*((name, False) for name in HEAD_CONFIGS), *((name, True) for name in HEAD_CONFIGS if 'RTM' in name)],
)
def test_all_classifiers_start_with_the_bias_of_an_even_score(head_type, objectness):
    """Some heads compute their scores from two branches; some have classifiers for each level."""
    head = build_head(head_type, **(dict(with_objectness=True) if objectness else {}))
    per_level = len(STRIDES) if 'RTMDetSepBN' in head_type else 1
    assert len(head.classifier_biases()) == NUM_BIASES.get(head_type, per_level * (2 if objectness else 1))
    assert all((bias - head.initial_logit).abs().max() < 1e-6 for bias in head.classifier_biases())
    assert head.initial_logit == pytest.approx(0 if head.num_factors == 1 else math.log(0.5**0.5 / (1 - 0.5**0.5)))
    scores = torch.cat([level.detach().sigmoid().flatten() for level in head(features(head))[0]])
    if not any(name in head_type for name in ('SSD', 'YOLOV3', 'YOLOX')):  # larger initial weights; parts of scores
        assert (scores - 0.5).abs().max() < 0.1
    sum(head.loss_by_feat(*head(features(head)), OBJECTS, METAS).values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]


@HEADS
def test_images_smaller_than_a_stride(head_type):
    """One location per level, fewer than any top k asks for."""
    head = build_head(head_type)
    head.eval()
    small = [{**METAS[0], 'img_shape': (8, 8), 'pad_shape': (8, 8), 'batch_input_shape': (8, 8)}] * 2
    inputs = tuple(torch.randn(2, 8, 1, 1) for _ in features(head))
    results = head.predict_by_feat(*head(inputs), batch_img_metas=small)
    assert len(results) == 2
    head.train()
    losses = head.loss_by_feat(*head(inputs), objects(([[1, 1, 7, 7]], [0]), ([[0, 0, 8, 8]], [1])), small)
    assert all(value.isfinite() for value in losses.values())


@HEADS
def test_scope_image_is_the_mean_over_images(head_type):
    """Of images that are assigned alone, too."""
    head = build_head(head_type, dict(type='RSLoss', scope='image'))
    alone = build_head(head_type, 'RSLoss')
    outputs = outputs_of(head)

    def ranking(module, start, end):
        maps = ([x[start:end] for x in levels] for levels in outputs)
        losses = module.loss_by_feat(*maps, OBJECTS[start:end], METAS[start:end])
        return losses['loss_rank'].item()

    expected = (ranking(alone, 0, 1) + ranking(alone, 1, 2)) / 2
    assert ranking(head, 0, 2) == pytest.approx(expected, rel=1e-5)
    assert ranking(alone, 0, 2) != pytest.approx(expected, rel=5e-4)


# MMCV does not implement NAS-FCOS's modulated deformable convolution for bfloat16.
@pytest.mark.parametrize('head_type', [name for name in HEAD_CONFIGS if name != 'RankBasedNASFCOSHead'])
def test_bfloat16_autocast_keeps_the_loss_in_float32(head_type):
    head = build_head(head_type)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.loss_by_feat(*head(features(head)), OBJECTS, METAS)
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()


@HEADS
def test_other_losses_are_refused(head_type):
    with pytest.raises(ValueError, match=rf'{head_type}: loss_cls must be a ranking loss'):
        build_head(head_type, dict(type='FocalLoss', use_sigmoid=True))


@pytest.mark.parametrize(
    'stock', ['FCOSHead', 'GFLHead', 'RTMDetHead', 'RTMDetSepBNHead', 'RetinaSepBNHead', 'VFNetHead']
)
def test_stock_heads_say_which_head_to_use(stock):
    kwargs = dict(num_ins=2) if 'Retina' in stock else {}
    if 'RTM' in stock:
        kwargs = dict(anchor_generator=POINTS)
    with pytest.raises(ValueError, match=f"{stock} cannot train RSLoss.*use type='RankBased{stock}'"):
        MODELS.build(
            dict(type=stock, num_classes=3, in_channels=8, loss_cls=dict(type='RSLoss', use_sigmoid=True), **kwargs)
        )


@pytest.mark.parametrize('head_type', ['RankBasedRTMDetHead', 'RankBasedRTMDetSepBNHead'])
def test_rtmdet_does_not_lower_logits_for_its_assigner(head_type):
    assert build_head(head_type).score_shift == 0
    assert build_head(head_type, classifier_prior=0.01).score_shift == 0
    assert build_head(head_type, score_prior=0.01).score_shift == pytest.approx(-math.log(99))


@pytest.mark.parametrize('score_prior', [0.0, 1.0])
def test_rtmdet_prior_outside_0_1_is_refused(score_prior):
    with pytest.raises(ValueError, match='score_prior'):
        build_head('RankBasedRTMDetHead', score_prior=score_prior)


@pytest.mark.parametrize('use_atss', [True, False])
def test_vfnet_takes_the_targets_of_atss_and_of_fcos(use_atss):
    """FCOS's targets come without weights, and from points in the middle of the cells."""
    head = build_head('RankBasedVFNetHead', use_atss=use_atss, use_vfl=False, loss_cls_fl=dict(type='FocalLoss'))
    losses = head.loss_by_feat(*head(features(head)), OBJECTS, METAS)
    assert set(losses) == {'loss_rank', 'loss_sort', 'loss_bbox', 'loss_bbox_rf'}
    assert all(0 < value < 10 for value in losses.values())


def test_vfnet_balances_both_box_losses_together():
    """A weight of one box loss matters only in proportion to the other's."""
    refine = [dict(type='GIoULoss', loss_weight=weight) for weight in (2.0, 4.0)]
    losses = []
    for loss in refine:
        head = build_head('RankBasedVFNetHead', loss_bbox_refine=loss)
        losses.append(head.loss_by_feat(*outputs_of(head), OBJECTS, METAS))
    for parts in losses:
        balanced = (parts['loss_bbox'] + parts['loss_bbox_rf']).item()
        assert balanced == pytest.approx((parts['loss_rank'] + parts['loss_sort']).item(), rel=1e-5)
    once, twice = (parts['loss_bbox_rf'] / parts['loss_bbox'] for parts in losses)
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-5)


def test_vfnet_with_alrp_reads_errors_of_refined_boxes_without_their_weight():
    values = []
    for weight in (1.0, 3.0):
        head = build_head('RankBasedVFNetHead', 'aLRPLoss', loss_bbox_refine=dict(type='GIoULoss', loss_weight=weight))
        values.append(head.loss_by_feat(*outputs_of(head), OBJECTS, METAS))
    for key, value in values[0].items():
        assert values[1][key].item() == pytest.approx(value.item(), rel=1e-6)
    assert set(values[0]) == {'loss_cls', 'loss_bbox', 'loss_bbox_rf'}


def test_vfnet_box_losses_on_deltas_are_refused():
    with pytest.raises(ValueError, match='RankBasedVFNetHead: loss_bbox_refine must be a loss on decoded boxes'):
        build_head('RankBasedVFNetHead', loss_bbox_refine=dict(type='L1Loss'))


@pytest.mark.parametrize('head_type', ['RankBasedVFNetHead', 'RankBasedRepPointsHead'])
def test_a_sampler_of_locations_is_refused(head_type):
    assigner = dict(type='ATSSAssigner', topk=9)
    stages = dict(init=dict(assigner=dict(type='PointAssigner', scale=4)), refine=dict(assigner=assigner))
    sampler = dict(type='RandomSampler', num=256, pos_fraction=0.5)
    train_cfg = stages if 'RepPoints' in head_type else dict(assigner=assigner)
    with pytest.raises(ValueError, match=f'{head_type}: a ranking loss needs no sampling, got RandomSampler'):
        build_head(head_type, train_cfg=dict(**train_cfg, sampler=sampler))
