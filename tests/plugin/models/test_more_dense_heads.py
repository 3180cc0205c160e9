"""FCOS, GFL, RTMDet and VFNet, heads that are not of the paper, get from the mixin what the others get."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import giou
from reference import loop_bucketed_ranking, loop_rs_loss

pytest.importorskip('mmdet')

from mmdet.models.dense_heads import ATSSHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from small_anchor_heads import METAS
from small_dense_heads import HEAD_CONFIGS, NUM_CLASSES, POINTS, REG_MAX, STRIDES, build_head

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

HEADS = pytest.mark.parametrize('head_type', HEAD_CONFIGS)


def features():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 8, 64 // stride, 64 // stride, generator=generator) for stride in STRIDES)


def objects(*images):
    return [
        InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels).long())
        for boxes, labels in images
    ]


OBJECTS = objects(
    ([[4, 4, 40, 44], [30, 10, 60, 50]], [0, 2]), ([[20, 20, 62, 62], [2, 2, 20, 22], [10, 30, 30, 62]], [1, 1, 0])
)


def outputs_of(head, seed=2):
    generator = torch.Generator().manual_seed(seed)
    in_pixels = any(name in type(head).__name__ for name in ('RTM', 'VFNet'))
    cls_scores, *box_maps = head(features())
    cls_scores = [torch.randn(x.shape, generator=generator).requires_grad_() for x in cls_scores]
    box_maps = [
        [(torch.rand(x.shape, generator=generator) * (20 if in_pixels else 3)).requires_grad_() for x in maps]
        for maps in box_maps
    ]
    return cls_scores, *box_maps


def at(maps, level, image, y, x):
    return maps[level][image, :, y, x]


def places(maps):
    """Level, image, y and x, in the order of MMDetection's targets per level."""
    for level, values in enumerate(maps):
        for image in range(values.size(0)):
            for y in range(values.size(2)):
                for x in range(values.size(3)):
                    yield level, image, y, x


def distance_box(point, distances):
    left, top, right, bottom = distances
    return torch.stack([point[0] - left, point[1] - top, point[0] + right, point[1] + bottom])


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
    elif 'SepBN' in name and 'Retina' in name:
        labels, _, targets, *_ = head.get_targets(anchors, flags, OBJECTS, METAS)
    else:
        # A logit of 0 counts as a probability of 0.01.
        scores = [x.permute(0, 2, 3, 1).reshape(2, -1, NUM_CLASSES) + math.log(0.01 / 0.99) for x in cls_scores]
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


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
@pytest.mark.parametrize('head_type', [name for name in HEAD_CONFIGS if 'Retina' not in name])
def test_losses_equal_a_slow_computation(head_type, loss):
    head = build_head(head_type, loss)
    cls_scores, *box_maps = outputs_of(head)
    bbox_preds = box_maps[-1]  # the refined ones
    maps = [*cls_scores, *(level for maps in box_maps for level in maps)]
    losses = head.loss_by_feat(cls_scores, *box_maps, OBJECTS, METAS)
    grads = torch.autograd.grad(sum(losses.values()), maps)

    labels, targets = assignments(head, cls_scores, bbox_preds)
    logits, entries, weights, box_losses, dfls, first_losses = [], [], [], [], [], []
    for index, place in enumerate(places(cls_scores)):
        scores, label = at(cls_scores, *place), int(labels[index])
        iou = None
        if label < NUM_CLASSES:
            loss_giou, iou = giou(box_of(head, bbox_preds, place), targets[index])
            weights.append(scores.detach().sigmoid().max())
            box_losses.append(loss_giou)
            if 'VFNet' in head_type:
                first_losses.append(giou(box_of(head, box_maps[0], place), targets[index])[0])
            if 'GFL' in head_type:
                dfls.append(slow_dfl(head, bbox_preds, place, targets[index]))
        for c in range(NUM_CLASSES):
            logits.append(scores[c])
            entries.append(max(float(iou.detach()), 1e-7) if c == label else 0.0)
    assert len(weights) > 2
    values = [float(logit.detach()) for logit in logits]
    reference = loop_rs_loss(values, entries, 0.5 if 'RS' in loss else 1.0)
    ranking, grad = reference.ranking, reference.ranking_grad
    if 'Bucketed' in loss:
        ranking, grad = loop_bucketed_ranking(values, entries, 0.5 if 'RS' in loss else 1.0)
    expected = {'loss_rank': ranking}
    if 'RS' in loss:
        expected['loss_sort'] = reference.sorting
        grad = [a + b for a, b in zip(grad, reference.sorting_grad, strict=True)]

    def mean(parts):
        return sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights)

    boxes = {'loss_bbox': 2.0 * mean(box_losses)}
    if dfls:
        boxes['loss_dfl'] = 0.25 * mean(dfls)
    if first_losses:
        boxes = {'loss_bbox_rf': 3.0 * mean(box_losses), 'loss_bbox': 2.0 * mean(first_losses)}
    if 'RS' in loss:
        factor = sum(expected.values()) / sum(boxes.values()).detach()
        boxes = {name: value * factor for name, value in boxes.items()}
    expected.update({name: float(value.detach()) for name, value in boxes.items()})
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, rel=1e-4, abs=1e-5), key
    total = sum(g * logit for g, logit in zip(grad, logits, strict=True) if g != 0) + sum(boxes.values())
    wanted = torch.autograd.grad(total, maps, materialize_grads=True)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


@HEADS
def test_every_parameter_gets_a_gradient(head_type):
    head = build_head(head_type)
    sum(head.loss_by_feat(*head(features()), OBJECTS, METAS).values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]
    assert all('centerness' not in key for key in head.state_dict())


@HEADS
def test_without_positives_losses_are_zero_and_connected(head_type):
    head = build_head(head_type)
    losses = head.loss_by_feat(*head(features()), objects(([], []), ([], [])), METAS)
    assert losses and all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in head.parameters())


@HEADS
def test_bias_starts_at_zero_and_fresh_detections_pass_the_threshold(head_type):
    head = build_head(head_type).eval()
    results = head.predict_by_feat(*head(features()), batch_img_metas=METAS)
    assert all(len(result) > 0 and (result.scores > 0.4).all() for result in results)


@pytest.mark.parametrize(
    ('head_type', 'objectness'),
    [*((name, False) for name in HEAD_CONFIGS), *((name, True) for name in HEAD_CONFIGS if 'RTM' in name)],
)
def test_all_classifiers_start_with_a_bias_of_zero(head_type, objectness):
    """RTMDet makes its scores of two branches, and has them once or once per level."""
    head = build_head(head_type, **(dict(with_objectness=True) if objectness else {}))
    per_level = len(STRIDES) if 'RTMDetSepBN' in head_type else 1
    assert len(head.classifier_biases()) == per_level * (2 if objectness else 1)
    assert all(bias.eq(0).all() for bias in head.classifier_biases())
    scores = torch.cat([level.detach().sigmoid().flatten() for level in head(features())[0]])
    assert (scores - 0.5).abs().max() < 0.1
    sum(head.loss_by_feat(*head(features()), OBJECTS, METAS).values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]


@HEADS
def test_images_smaller_than_a_stride(head_type):
    """One location per level, fewer than any top k asks for."""
    head = build_head(head_type)
    head.eval()
    small = [{**METAS[0], 'img_shape': (8, 8), 'pad_shape': (8, 8), 'batch_input_shape': (8, 8)}] * 2
    inputs = tuple(torch.randn(2, 8, 1, 1) for _ in STRIDES)
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
    assert ranking(alone, 0, 2) != pytest.approx(expected, rel=1e-3)


@HEADS
def test_bfloat16_autocast_keeps_the_loss_in_float32(head_type):
    head = build_head(head_type)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.loss_by_feat(*head(features()), OBJECTS, METAS)
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


@pytest.mark.parametrize('score_prior', [0.0, 1.0])
def test_rtmdet_prior_outside_0_1_is_refused(score_prior):
    with pytest.raises(ValueError, match='score_prior'):
        build_head('RankBasedRTMDetHead', score_prior=score_prior)


@pytest.mark.parametrize('use_atss', [True, False])
def test_vfnet_takes_the_targets_of_atss_and_of_fcos(use_atss):
    """FCOS's targets come without weights, and from points in the middle of the cells."""
    head = build_head('RankBasedVFNetHead', use_atss=use_atss, use_vfl=False, loss_cls_fl=dict(type='FocalLoss'))
    losses = head.loss_by_feat(*head(features()), OBJECTS, METAS)
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
