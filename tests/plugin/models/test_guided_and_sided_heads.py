"""Guided anchoring, SABL and Cascade RPN: losses against slow computations, and in the situations training meets."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import Prediction, decode, giou, slow_parts, slow_ranking

pytest.importorskip('mmdet')

from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from small_anchor_heads import METAS, features, instances
from small_guided_heads import (
    BUCKETS,
    HEAD_TYPES,
    HEADS,
    STRIDES,
    TEST_CFG,
    build_head,
    cascade_rpn,
    losses_of,
    objects_of,
    samples_of,
)
from small_roi_heads import NUM_CLASSES, build, random_rois

EACH = pytest.mark.parametrize('name', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
TYPES = pytest.mark.parametrize('head_type', HEAD_TYPES)
NO_OBJECTS = [instances([], []), instances([], [])]
LOCATIONS = ('loss_loc', 'loss_anchor_loc')  # focal loss on all locations: not 0 without objects


@EACH
@TYPES
def test_every_parameter_gets_a_gradient(head_type, name):
    head = build_head(head_type, name)
    losses = losses_of(head)
    assert all(value.dim() == 0 and math.isfinite(value.item()) and value > 0 for value in losses.values()), losses
    assert any(key.endswith('_sort') for key in losses) == ('RS' in name)
    sum(losses.values()).backward()
    assert not [key for key, p in head.named_parameters() if p.grad is None]


@TYPES
@pytest.mark.parametrize('name', ['aLRPLoss', 'DRLoss'])
def test_other_losses(head_type, name):
    head = build_head(head_type, name)
    losses = losses_of(head)
    assert all(math.isfinite(value.item()) for value in losses.values()), losses
    sum(losses.values()).backward()
    assert not [key for key, p in head.named_parameters() if p.grad is None]


@EACH
@TYPES
def test_a_batch_without_objects(head_type, name):
    head = build_head(head_type, name)
    losses = losses_of(head, NO_OBJECTS)
    assert all(value == 0 for key, value in losses.items() if key not in LOCATIONS), losses
    sum(losses.values()).backward()
    assert not [key for key, p in head.named_parameters() if p.grad is None]


@TYPES
def test_predictions_and_bfloat16(head_type):
    head = build_head(head_type)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = losses_of(head)
        if 'RPN' in head_type:
            losses, proposals = head.loss_and_predict(
                tuple(features()), samples_of(head), proposal_cfg=ConfigDict(head.test_cfg)
            )
            assert all(0 < len(image) <= 10 for image in proposals)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    if 'GA' not in head_type:  # MMCV has their masked convolutions for a GPU only, and for one image
        head.eval()
    with torch.no_grad():
        results = head.predict(tuple(features()), samples_of(head))
    for result in results:
        assert 0 < len(result) <= 10 and result.bboxes.isfinite().all() and (result.scores < 1).all()


@TYPES
def test_classifiers_start_with_a_bias_of_zero(head_type):
    head = build_head(head_type)
    ranking_head = head.stages[-1] if 'Cascade' in head_type else head
    assert ranking_head.classifier_biases() and all(bias.eq(0).all() for bias in ranking_head.classifier_biases())
    if 'GA' in head_type:  # focal loss on locations needs its prior
        assert head.conv_loc.bias.item() == pytest.approx(-math.log(99))


def test_image_scope_needs_no_other_head():
    for head_type in ('RankBasedGARetinaHead', 'RankBasedSABLRetinaHead'):
        head = build_head(head_type, loss_cls=dict(type='RSLoss', scope='image'))
        assert losses_of(head)['loss_rank'] > 0


def gradients(total, inputs):
    """Gradients of all inputs; 0 for those without an influence, such as levels without positives."""
    grads = torch.autograd.grad(total, inputs, allow_unused=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, grads, strict=True)]


def maps_like(maps, generator, scale=1.0):
    return [(scale * torch.randn(level.shape, generator=generator)).requires_grad_() for level in maps]


def places(maps):
    """Level, image, y and x, in the order of MMDetection's targets per level."""
    for level, values in enumerate(maps):
        for image in range(values.size(0)):
            for y in range(values.size(2)):
                for x in range(values.size(3)):
                    yield level, image, y, x


def square(level, y, x):
    half = 2 * STRIDES[level]
    centre = torch.tensor([x * STRIDES[level], y * STRIDES[level]] * 2)
    return centre + torch.tensor([-half, -half, half, half])


def stock_head(head_type, **kwargs):
    cfg = {**HEADS[head_type], 'train_cfg': ConfigDict(HEADS[head_type]['train_cfg']), **kwargs}
    focal = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)
    return MODELS.build(
        dict(type=head_type.removeprefix('RankBased'), in_channels=8, feat_channels=8, loss_cls=focal, **cfg)
    )


def bounded_iou_loss(box, target, beta=0.2, eps=1e-3):
    """The sum over centre and size, of Eq. 3 in the paper on feature selective localisation, with its smooth L1."""
    parts = []
    for low, high in ((0, 2), (1, 3)):
        size, target_size = box[high] - box[low], float(target[high] - target[low])
        distance = abs(float(target[high] + target[low]) - float(box[high] + box[low])) / 2
        parts.append(torch.tensor(1 - max((target_size - 2 * distance) / (target_size + 2 * distance + eps), 0)))
        parts.append(1 - torch.min(target_size / (size + eps), size / (target_size + eps)))
    return sum(0.5 * part * part / beta if part < beta else part - 0.5 * beta for part in parts)


@EACH
@pytest.mark.parametrize('head_type', ['RankBasedGARetinaHead', 'RankBasedGARPNHead'])
def test_guided_anchors_against_a_slow_computation(head_type, name):
    head = build_head(head_type, name)
    generator = torch.Generator().manual_seed(3)
    cls_scores, bbox_preds, shape_preds, loc_preds = (maps_like(maps, generator, 0.4) for maps in head(features()))
    objects = objects_of(head)
    losses = head.loss_by_feat(cls_scores, bbox_preds, shape_preds, loc_preds, objects, METAS)

    anchors = [[[], []], [[], []]]
    for level, image, y, x in places(cls_scores):
        dw, dh = shape_preds[level][image, :, y, x].tolist()
        side = 4 * STRIDES[level]
        half = torch.tensor([math.exp(dw) * side / 2, math.exp(dh) * side / 2])
        centre = torch.tensor([x * STRIDES[level], y * STRIDES[level]])
        anchors[image][level].append(torch.cat([centre - half, centre + half]))
    anchors = [[torch.stack(level) for level in image] for image in anchors]
    stock = stock_head(head_type, reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss', loss_weight=2.0))
    sizes = [level.shape[-2:] for level in cls_scores]
    approxs, inside = stock.get_sampled_approxs(sizes, METAS, device='cpu')
    labels, weights, targets, *_ = stock.get_targets(anchors, inside, objects, METAS)
    squares = [[level.clone() for level in stock.square_anchor_generator.grid_priors(sizes, device='cpu')]] * 2
    _, shape_gts, shape_weights, _ = stock.ga_shape_targets(approxs, inside, squares, objects, METAS)

    predictions, shapes = [], []
    for level, image, y, x in places(cls_scores):
        index = y * sizes[level][1] + x
        predictions.append(
            Prediction(
                cls_scores[level][image, :, y, x],
                anchors[image][level][index],
                bbox_preds[level][image, :, y, x],
                int(labels[level][image, index]),
                bool(weights[level][image, index] == 0),
                targets[level][image, index],
            )
        )
        if shape_weights[level][image, index, 0] > 0:
            box = square(level, y, x)
            half = (box[2:] - box[:2]) / 2 * shape_preds[level][image, :, y, x].exp()
            centre = (box[2:] + box[:2]) / 2
            box = torch.cat([centre - half, centre + half])
            shapes.append(bounded_iou_loss(box, shape_gts[level][image, index]))
    ranking, total, loss_bbox = slow_parts(name, predictions, box_weight=2.0)
    loss_shape = sum(shapes) / len(shapes)
    assert len(shapes) > 3
    factor = sum(ranking.values()) / float((loss_bbox + loss_shape).detach()) if 'RS' in name else 1.0
    head_weight = 0.2 if 'RPN' in head_type else 1.0
    expected = {**ranking, 'loss_bbox': factor * loss_bbox.item(), 'loss_shape': factor * loss_shape.item()}
    if 'RPN' in head_type:
        expected = {key.replace('loss_', 'loss_rpn_'): value for key, value in expected.items()}
        expected['loss_anchor_shape'] = expected.pop('loss_rpn_shape')
    location = losses.pop('loss_anchor_loc' if 'RPN' in head_type else 'loss_loc')
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(head_weight * value, rel=1e-4, abs=1e-6)
    inputs = (*cls_scores, *bbox_preds, *shape_preds)
    slow = gradients(head_weight * (total + factor * (loss_bbox + loss_shape)), inputs)
    for got, want in zip(gradients(sum(losses.values()), inputs), slow, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)
    loc_targets, loc_weights, factor = stock.ga_loc_targets(objects, sizes)
    levels = zip(loc_preds, loc_targets, loc_weights, strict=True)
    assert location.item() == pytest.approx(sum(stock.loss_loc_single(*level, factor).item() for level in levels))


def side_buckets(prior, scale):
    """For the sides left, right, top, bottom: the positions of the buckets, and their width."""
    sides = []
    for axis in (0, 1):
        low, high = float(prior[axis]), float(prior[axis + 2])
        centre, size = (low + high) / 2, scale * (high - low)
        width = size / BUCKETS
        sides.append(([centre - size / 2 + (0.5 + i) * width for i in range(BUCKETS // 2)], width))
        sides.append(([centre + size / 2 - (0.5 + i) * width for i in range(BUCKETS // 2)], width))
    return sides


def sided_losses(prior, target, buckets, offsets, scale, beta, loss_weight):
    """The decoded box of a positive, and its losses of buckets and offsets, summed over sides and buckets."""
    order = (0, 2, 1, 3)  # left, right, top, bottom among x1 y1 x2 y2
    number = BUCKETS // 2
    box, bucket_loss, offset_loss = [0.0] * 4, 0.0, 0.0
    for side, (positions, width) in enumerate(side_buckets(prior, scale)):
        logits = buckets[side * number : (side + 1) * number]
        predicted = offsets[side * number : (side + 1) * number]
        wanted = [(position - float(target[order[side]])) / width for position in positions]
        by_distance = sorted(range(number), key=lambda i: abs(wanted[i]))
        for i in range(number):
            nearest = i == by_distance[0]
            if nearest or abs(wanted[i]) >= 1:  # a second bucket in reach is ignored
                bucket_loss = bucket_loss + torch.nn.functional.softplus(-logits[i] if nearest else logits[i])
            if nearest or (i == by_distance[1] and abs(wanted[i]) < 1):
                error = (predicted[i] - wanted[i]).abs()
                offset_loss = offset_loss + (0.5 * error**2 / beta if error < beta else error - 0.5 * beta)
        best = int(logits.argmax())
        box[order[side]] = positions[best] - float(predicted[best]) * width
    return torch.tensor(box), loss_weight * bucket_loss, loss_weight * offset_loss


def check_sided(name, losses, rows, divisors, inputs):
    """Rows: logits, label, whether ignored, and the losses of a positive."""
    logits, targets, positives = [], [], []
    for scores, label, ignored, sided in rows:
        num_classes = len(scores)
        iou = None
        if label < num_classes and not ignored:
            (box, bucket_loss, offset_loss), target = sided
            iou = float(giou(box, target)[1])
            positives.append((float(scores.detach().sigmoid().max()), bucket_loss, offset_loss))
        for c in range(num_classes):
            logits.append(scores[c])
            targets.append(-1.0 if ignored else max(iou, 1e-7) if c == label and iou is not None else 0.0)
    assert len(positives) > 5
    ranking, total = slow_ranking(name, logits, targets)
    weight = sum(w for w, _, _ in positives)
    buckets = sum(w * loss for w, loss, _ in positives) / weight / divisors[0]
    offsets = sum(w * loss for w, _, loss in positives) / weight / divisors[1]
    factor = sum(ranking.values()) / float((buckets + offsets).detach()) if 'RS' in name else 1.0
    expected = {**ranking, 'loss_bbox_cls': factor * buckets.item(), 'loss_bbox_reg': factor * offsets.item()}
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, rel=1e-4, abs=1e-6)
    slow = gradients(total + factor * (buckets + offsets), inputs)
    for got, want in zip(gradients(sum(losses.values()), inputs), slow, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


@EACH
def test_side_aware_anchors_against_a_slow_computation(name):
    head = build_head('RankBasedSABLRetinaHead', name)
    generator = torch.Generator().manual_seed(3)
    cls_scores, bbox_preds = head(features())
    cls_scores = maps_like(cls_scores, generator)
    buckets, offsets = (maps_like(maps, generator, 0.3) for maps in zip(*bbox_preds, strict=True))
    objects = objects_of(head)
    losses = head.loss_by_feat(cls_scores, list(zip(buckets, offsets, strict=True)), objects, METAS)

    # The assignment is that of guided anchors: the stock heads share the code.
    stock = stock_head('RankBasedGARetinaHead', train_cfg=ConfigDict(HEADS['RankBasedGARetinaHead']['train_cfg']))
    sizes = [level.shape[-2:] for level in cls_scores]
    approxs, inside = stock.get_sampled_approxs(sizes, METAS, device='cpu')
    sabl = stock_head('RankBasedSABLRetinaHead')
    squares = sabl.get_anchors(sizes, METAS, device='cpu')
    labels, weights, *_ = sabl.get_targets(approxs, inside, squares, objects, METAS)
    _, gts, _, _ = stock.ga_shape_targets(approxs, inside, squares, objects, METAS)
    rows = []
    for level, image, y, x in places(cls_scores):
        index = y * sizes[level][1] + x
        label, ignored = int(labels[level][image, index]), bool(weights[level][image, index] == 0)
        sided = None
        if label < NUM_CLASSES:
            target = gts[level][image, index]
            maps = (buckets[level][image, :, y, x], offsets[level][image, :, y, x])
            sided = sided_losses(square(level, y, x), target, *maps, 3.0, 1 / 9, 1.5), target
        rows.append((cls_scores[level][image, :, y, x], label, ignored, sided))
    check_sided(name, losses, rows, (2 * BUCKETS, 8), (*cls_scores, *buckets, *offsets))


def sabl_head_cfg(name):
    return dict(
        type='RankBasedSABLHead',
        num_classes=NUM_CLASSES,
        cls_in_channels=4,
        reg_in_channels=4,
        roi_feat_size=3,
        cls_out_channels=8,
        reg_offset_out_channels=4,
        reg_cls_out_channels=4,
        bbox_coder=dict(type='BucketingBBoxCoder', num_buckets=BUCKETS, scale_factor=1.7),
        loss_cls=dict(type=name),
    )


@EACH
def test_side_aware_rois_against_a_slow_computation(name):
    head = build(sabl_head_cfg(name))
    rois, labels, weights, boxes, _ = random_rois()
    positive = labels < NUM_CLASSES
    sides = [torch.zeros(len(rois), 2 * BUCKETS) for _ in range(4)]
    for part, values in zip(sides, head.bbox_coder.encode(rois[positive, 1:], boxes[positive]), strict=True):
        part[positive] = values
    offset_targets, offset_weights, bucket_targets, bucket_weights = sides
    generator = torch.Generator().manual_seed(1)
    logits, buckets, offsets = (
        (0.3 * torch.randn(len(rois), channels, generator=generator)).requires_grad_()
        for channels in (NUM_CLASSES, 2 * BUCKETS, 2 * BUCKETS)
    )
    losses = head.loss(
        logits,
        (buckets, offsets),
        rois,
        labels,
        weights,
        (bucket_targets, offset_targets),
        (bucket_weights, offset_weights),
    )
    losses.pop('acc_classes')
    rows = []
    for i in range(len(rois)):
        sided = None
        if positive[i]:
            sided = sided_losses(rois[i, 1:], boxes[i], buckets[i], offsets[i], 1.7, 0.1, 1.0), boxes[i]
        rows.append((logits[i], int(labels[i]), bool(weights[i] == 0), sided))
    check_sided(name, losses, rows, (4, 1), (logits, buckets, offsets))


@EACH
def test_side_aware_rois_without_positives(name):
    num = 5  # the stock head fails without RoIs
    head = build(sabl_head_cfg(name))
    cls_score, bbox_pred = head(torch.randn(num, 4, 3, 3))
    nothing = torch.zeros(num, 2 * BUCKETS), torch.zeros(num, 2 * BUCKETS)
    losses = head.loss(
        cls_score, bbox_pred, torch.rand(num, 5), torch.full((num,), NUM_CLASSES), torch.ones(num), nothing, nothing
    )
    values = [value for key, value in losses.items() if 'loss' in key]
    assert len(values) == (4 if 'RS' in name else 3) and all(value == 0 for value in values)
    sum(values).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_the_confidences_of_buckets_do_not_change_scores():
    everything = dict(score_thr=0.0, nms_pre=1000, nms=dict(type='nms', iou_threshold=1.0), max_per_img=1000)
    head = build_head('RankBasedSABLRetinaHead', test_cfg=ConfigDict(everything))
    head.eval()
    with torch.no_grad():
        outputs = head(features())
        results = head.predict_by_feat(*outputs, batch_img_metas=METAS)
    for image, result in enumerate(results):
        scores = torch.cat([level[image].sigmoid().flatten() for level in outputs[0]])
        torch.testing.assert_close(result.scores.sort().values, scores.sort().values)


@EACH
def test_the_last_stage_of_cascade_rpn_against_a_slow_computation(name):
    head = build_head('RankBasedCascadeRPNHead', name)
    last = head.stages[-1]
    generator = torch.Generator().manual_seed(3)
    cls_scores = [torch.randn(2, 1, side, side, generator=generator).requires_grad_() for side in (8, 4)]
    bbox_preds = [(0.3 * torch.randn(2, 4, side, side, generator=generator)).requires_grad_() for side in (8, 4)]
    objects = objects_of(head)
    anchors = [
        [
            torch.stack(
                [
                    square(level, y, x) + 3 * torch.randn(4, generator=generator)
                    for y in range(side)
                    for x in range(side)
                ]
            )
            for level, side in enumerate((8, 4))
        ]
        for _ in METAS
    ]
    flags = [[torch.ones(64, dtype=torch.bool), torch.ones(16, dtype=torch.bool)] for _ in METAS]
    losses = last.loss_by_feat(anchors, flags, cls_scores, bbox_preds, objects, METAS)
    labels, weights, targets, *_ = last.get_targets(anchors, flags, [(8, 8), (4, 4)], objects, METAS)
    predictions = [
        Prediction(
            cls_scores[level][image, :, y, x],
            anchors[image][level][index],
            bbox_preds[level][image, :, y, x],
            int(labels[level][image, index]),
            bool(weights[level][image, index] == 0),
            targets[level][image, index],
        )
        for level, image, y, x in places(cls_scores)
        for index in [y * cls_scores[level].size(3) + x]
    ]
    ranking, total, _ = slow_parts(name, predictions, box_weight=1.0)
    positives = [p for p in predictions if p.label == 0 and not p.ignored]
    boxes = [
        (float(p.scores.detach().sigmoid()), 7 * (1 - giou(decode(p.prior, p.delta), p.target)[1])) for p in positives
    ]
    loss_bbox = sum(w * loss for w, loss in boxes) / sum(w for w, _ in boxes)
    factor = sum(ranking.values()) / float(loss_bbox.detach()) if 'RS' in name else 1.0
    expected = {**ranking, 'loss_bbox': factor * loss_bbox.item()}
    assert losses.keys() == {key.replace('loss_', 'loss_rpn_') for key in expected}
    for key, value in expected.items():
        assert losses[key.replace('loss_', 'loss_rpn_')].item() == pytest.approx(0.2 * value, rel=1e-4)
    inputs = (*cls_scores, *bbox_preds)
    slow = gradients(0.2 * (total + factor * loss_bbox), inputs)
    for got, want in zip(gradients(sum(losses.values()), inputs), slow, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


@EACH
def test_the_first_stage_of_cascade_rpn_is_scaled_as_the_last(name):
    head = build_head('RankBasedCascadeRPNHead', name)
    losses = losses_of(head)
    seen = []
    head._balanced = lambda losses: seen.append(losses) or losses
    head.loss(tuple(features()), samples_of(head))
    plain = sum(seen[0]['s0.loss_rpn_reg']).item()
    ranking = sum(losses[key].item() for key in losses if key.endswith(('_rank', '_sort')))
    assert losses['s0.loss_rpn_reg'].item() == pytest.approx(ranking if 'RS' in name else 0.2 * plain, rel=1e-4)
    assert losses['s0.loss_rpn_reg'].item() != pytest.approx(plain, rel=1e-2)


def test_an_earlier_ranking_stage_of_cascade_rpn_keeps_its_losses():
    """It has a classifier, so its losses are balanced and weighted already."""
    config = cascade_rpn(dict(type='BucketedRSLoss'))
    config['stages'][0] |= dict(
        type='RankBasedStageCascadeRPNHead', with_cls=True, loss_cls=dict(type='BucketedRSLoss')
    )
    head = MODELS.build({**config, 'test_cfg': ConfigDict(TEST_CFG)})
    head.init_weights()
    losses = losses_of(head)
    ranking = [losses[f's0.loss_rpn_{part}'].item() for part in ('rank', 'sort')]
    assert losses['s0.loss_rpn_bbox'].item() == pytest.approx(sum(ranking), rel=1e-4)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_wrong_settings_are_named():
    pseudo = dict(type='RandomSampler', num=256, pos_fraction=0.5)
    train_cfg = ConfigDict({**HEADS['RankBasedSABLRetinaHead']['train_cfg'], 'sampler': pseudo})
    with pytest.raises(
        ValueError, match='RankBasedSABLRetinaHead: a ranking loss needs no sampling, got RandomSampler'
    ):
        build_head('RankBasedSABLRetinaHead', train_cfg=train_cfg)
    with pytest.raises(ValueError, match='RankBasedSABLHead: loss_cls must be a ranking loss'):
        build(sabl_head_cfg('FocalLoss'))
    with pytest.raises(ValueError, match='RankBasedStageCascadeRPNHead: with_cls must be True, got False'):
        MODELS.build(
            dict(type='RankBasedStageCascadeRPNHead', in_channels=8, with_cls=False, loss_cls=dict(type='RSLoss'))
        )
    stages = [dict(type='StageCascadeRPNHead', in_channels=8, with_cls=False)]
    with pytest.raises(ValueError, match='the last of its stages must be a RankBasedStageCascadeRPNHead, got Stage'):
        MODELS.build(
            dict(
                type='RankBasedCascadeRPNHead',
                num_classes=1,
                num_stages=1,
                stages=stages,
                train_cfg=None,
                test_cfg=None,
            )
        )
