"""Auxiliary queries of Co-DETR and BRS-DETR, and the losses of all queries against loops."""

from __future__ import annotations

import copy
import math

import pytest
import torch

pytest.importorskip('mmdet')

from detr_reference import Query, best_assignment, slow_query_losses
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from small_co_detr import (
    BOTH,
    BRS,
    NUM_CLASSES,
    batch,
    build,
    load,
    predictions,
    query_head,
)
from small_query_heads import shake

from bucketed_losses.mmdet.models.dense_heads import QuerySet, QueryTargets
from bucketed_losses.mmdet.models.detectors import draw_auxiliary_queries

# ---------------------------------------------------------------------------------------------------------------------
# Auxiliary queries


def candidates(num_positive, num_negative, num_ignored=0, start=0):
    """Priors and features that carry their number, in an order that is not that of their kinds."""
    num = num_positive + num_negative + num_ignored
    order = torch.randperm(num)
    number = torch.arange(num, dtype=torch.float32) + start
    labels = torch.full((num,), NUM_CLASSES)
    labels[:num_positive] = torch.randint(NUM_CLASSES, (num_positive,))
    weights = torch.ones(num)
    weights[num_positive + num_negative :] = 0
    targets = torch.stack([number, number, number + 4, number + 2], dim=1) * (labels < NUM_CLASSES)[:, None]
    data = dict(
        priors=torch.stack([number, number + 1, number + 3, number + 5], dim=1),
        labels=labels,
        label_weights=weights,
        bbox_targets=targets,
        features=number[:, None].expand(num, 6).clone(),
    )
    return InstanceData(**{key: value[order] for key, value in data.items()})


META = dict(img_shape=(200, 100))


@given(
    sizes=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40), st.integers(0, 10)), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_drawn_queries(sizes, seed):
    torch.manual_seed(seed)
    images = [candidates(*size) for size in sizes]
    least, most = 9, 20
    group = draw_auxiliary_queries(images, [META] * len(images), NUM_CLASSES, least, most)
    num = min(max(least, *(size[0] for size in sizes)), most) if len(sizes) > 1 else min(max(least, sizes[0][0]), most)
    assert group.boxes.shape == (len(sizes), num, 4) and group.features.shape == (len(sizes), num, 6)
    flat = (group.targets.labels < NUM_CLASSES).flatten().nonzero().squeeze(1)
    assert group.targets.positive.tolist() == flat.tolist(), 'the rows of positives are known without a look'
    width, height = 100, 200
    for i, (num_positive, num_negative, num_ignored) in enumerate(sizes):
        labels, weights, targets = (field[i] for field in group.targets[:3])
        positive = labels < NUM_CLASSES
        negative = ~positive & (weights > 0)
        assert positive.sum() == min(num_positive, num), 'positives come first'
        assert negative.sum() == min(num - int(positive.sum()), num_negative), 'then negatives'
        number = group.features[i, :, 0]
        real = torch.arange(num) < num_positive + num_negative + num_ignored
        assert len(set(number[real].tolist())) == int(real.sum()), 'nobody is drawn twice'
        cx, cy, w, h = group.boxes[i].unbind(1)
        torch.testing.assert_close(cx[real], (number + 1.5)[real] / width)
        torch.testing.assert_close(cy[real], (number + 3)[real] / height)
        torch.testing.assert_close(w[real], torch.full_like(w, 3 / width)[real])
        torch.testing.assert_close(h[real], torch.full_like(h, 4 / height)[real])
        torch.testing.assert_close(targets[positive][:, 0], (number + 2)[positive] / width)
        assert (weights[~real] == 0).all() and (group.boxes[i][~real] == torch.tensor([0.5, 0.5, 1, 1])).all()


def test_queries_are_drawn_uniformly_and_by_the_seed():
    torch.manual_seed(0)
    image = candidates(40, 100)
    positives = image.features[image.labels < NUM_CLASSES, 0].tolist()
    counts = dict.fromkeys(positives, 0)
    for _ in range(400):
        group = draw_auxiliary_queries([image], [META], NUM_CLASSES, 9, 10)
        for number in group.features[0, :, 0].tolist():
            counts[number] += 1
    # Binomial(400, 1/4): six standard deviations are 52.
    assert all(abs(count - 100) < 52 for count in counts.values())

    def draw(seed):
        torch.manual_seed(seed)
        return draw_auxiliary_queries([image], [META], NUM_CLASSES, 9, 10).features

    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))


@BOTH
def test_the_dense_head_hands_out_what_it_was_trained_on(config):
    detector = shake(build(load(config))).train()
    data = batch(detector, sizes=((128, 128), (128, 128)))
    samples = data['data_samples']
    with torch.no_grad():
        encoded, _, sizes = detector.encode(data['inputs'], samples)
        maps = detector.auxiliary_maps(encoded['memory'], sizes)
    assert [tuple(level.shape[-2:]) for level in maps] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    seen = {}
    atss = detector.dense_heads[0]
    _, dense = atss.loss_and_candidates(maps, samples)
    atss.assigner.assign, original = (
        (lambda *a, **k: seen.setdefault(len(seen), original(*a, **k))),
        atss.assigner.assign,
    )
    atss.loss(maps, samples)
    for i, image in enumerate(dense):
        assert len(image) == sum(level.shape[-1] * level.shape[-2] for level in maps), 'one anchor per location'
        positive = image.labels < NUM_CLASSES
        assert torch.equal(positive, seen[i].gt_inds > 0)
        truth = samples[i].gt_instances[seen[i].gt_inds[positive] - 1]
        assert torch.equal(image.labels[positive], truth.labels)
        torch.testing.assert_close(image.bbox_targets[positive], truth.bboxes)
        # The anchor's centre is its location.
        for index in range(0, len(image), 37):
            level, offset = 0, index
            while offset >= maps[level][0, 0].numel():
                offset -= maps[level][0, 0].numel()
                level += 1
            y, x = divmod(offset, maps[level].shape[-1])
            torch.testing.assert_close(image.features[index], maps[level][i, :, y, x])
            stride = 8 * 2**level
            assert (image.priors[index, :2] + image.priors[index, 2:]).tolist() == [2 * stride * x, 2 * stride * y]


@BOTH
def test_the_roi_head_hands_out_what_lies_under_its_boxes(config):
    """Maps that are linear in x and y: the mean over a box is the value at its centre."""
    detector = build(load(config)).train()
    data = batch(detector, num_items=(2, 2), sizes=((128, 128), (128, 128)))
    samples = data['data_samples']
    sizes = [torch.Size([16 // 2**level] * 2) for level in range(4)]
    slopes = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    memory = []
    for height, width in sizes:
        stride = 128 // height
        y, x = torch.meshgrid(torch.arange(height) * 1.0, torch.arange(width) * 1.0, indexing='ij')
        memory.append(torch.stack([x.flatten() + 0.5, y.flatten() + 0.5], dim=1) * stride @ slopes)
    maps = detector.auxiliary_maps(torch.cat(memory)[None].repeat(2, 1, 1), sizes)
    torch.testing.assert_close(maps[1][0, :, 2, 5], torch.tensor([5.5, 2.5]) * 16 @ slopes)
    proposals = []
    for i, sample in enumerate(samples):
        sample.gt_instances.bboxes = torch.tensor([[30.0, 40, 80, 90], [50, 30, 100, 70]]) - 6 * i
        boxes = torch.cat([sample.gt_instances.bboxes + 4, torch.tensor([[24.0, 70, 40, 96]])])
        proposals.append(InstanceData(bboxes=boxes, scores=torch.ones(3), labels=torch.zeros(3)))
    _, candidates = detector.roi_heads[0].loss_and_candidates(maps, proposals, samples)
    for image, sample in zip(candidates, samples, strict=True):
        assert len(image) == 5, 'ground truth is among them'
        centres = (image.priors[:, :2] + image.priors[:, 2:]) / 2
        torch.testing.assert_close(image.features, centres @ slopes, rtol=1e-4, atol=1e-2)
        truth = sample.gt_instances
        for prior, label, target in zip(image.priors, image.labels, image.bbox_targets, strict=True):
            distances = (truth.bboxes - prior).abs().amax(1)
            if distances.min() <= 4:
                assert label == truth.labels[distances.argmin()]
                assert target.tolist() == truth.bboxes[distances.argmin()].tolist()
            else:
                assert label == NUM_CLASSES and not target.any()


@BOTH
def test_auxiliary_heads_are_trained_as_always(config):
    """What is logged as atss1 and roi0 is what the heads that are no auxiliary ones say to the same maps."""
    model = load(config)
    detector = shake(build(model)).train()
    data = batch(detector)
    seen = []
    original = detector.auxiliary_maps
    detector.auxiliary_maps = lambda *args: seen.append(original(*args)) or seen[-1]
    losses, samples, maps = detector(**copy.deepcopy(data), mode='loss'), data['data_samples'], seen[0]

    def plain(head, cfg, trained):
        names = {'CoStandardRoIHead': 'StandardRoIHead'}
        kind = names.get(head.type, head.type.replace('Co', '', 1))
        cfgs = dict(train_cfg=model.train_cfg[cfg], test_cfg=model.test_cfg[cfg])
        alone = MODELS.build(dict(copy.deepcopy(head), type=kind, **cfgs))
        alone.load_state_dict(trained.state_dict())
        return alone

    def check(prefix, alone):
        for name, value in alone.items():
            assert torch.allclose(
                sum(losses[prefix + name]) if isinstance(value, list) else losses[prefix + name],
                sum(value) if isinstance(value, list) else value,
                rtol=1e-5,
            ), name

    check('atss1.', plain(model.dense_heads, 'dense', detector.dense_heads[0]).loss(maps, copy.deepcopy(samples)))
    if config == BRS:  # the baseline samples at random
        rpn_losses, proposals = detector.rpn_loss_and_predict(maps, samples)
        check('', rpn_losses)
        check('roi0.', plain(model.roi_heads, 'rcnn', detector.roi_heads[0]).loss(maps, proposals, samples))


# ---------------------------------------------------------------------------------------------------------------------
# The losses against loops


def as_queries(logits, boxes, targets, metas):
    return [
        Query(
            logits[i, q],
            boxes[i, q],
            int(targets.labels[i, q]),
            targets.boxes[i, q],
            metas[i]['img_shape'][::-1],
            bool(targets.weights[i, q] == 0),
        )
        for i in range(logits.shape[0])
        for q in range(logits.shape[1])
    ]


LOSSES = ('FocalLoss', 'APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss')


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('positives', ['some', 'none'])
def test_query_losses_equal_loops(loss, positives):
    """Decoder layers, encoder proposals and auxiliary queries all go through this."""
    head = query_head(loss)
    metas = [dict(img_shape=(100, 160)), dict(img_shape=(90, 60))]
    logits, boxes = predictions(0)
    labels = torch.full((2, 7), NUM_CLASSES)
    target_boxes = torch.zeros(2, 7, 4)
    if positives == 'some':
        labels[0, :3], labels[1, 5] = torch.tensor([1, 4, 1]), 0
        target_boxes[0, :3] = boxes[0, :3].detach() + torch.tensor([0.05, -0.03, 0.04, 0.08])
        target_boxes[1, 5] = torch.tensor([0.9, 0.9, 0.1, 0.1])  # does not overlap: IoU 0, still a positive
    weights = torch.ones(2, 7)
    weights[1, 2] = 0
    targets = QueryTargets(labels, weights, target_boxes)
    fast = head.query_losses([QuerySet('', logits, boxes, targets)], metas)
    slow, total = slow_query_losses(loss, as_queries(logits, boxes, targets, metas), class_weight=2.0)
    assert {name: value.item() for name, value in fast.items()} == pytest.approx(slow, rel=1e-5, abs=1e-6)
    expected = torch.autograd.grad(total, (logits, boxes), allow_unused=True, materialize_grads=True)
    actual = torch.autograd.grad(sum(fast.values()), (logits, boxes))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not actual[0][1, 2].any() and not actual[1][1, 2].any(), 'weight 0 trains nothing'


@pytest.mark.parametrize(
    ('loss', 'settings', 'shift'),
    [
        ('FocalLoss', {}, 0),
        ('BucketedRSLoss', dict(classifier_prior=0.01), 0),
        ('BucketedRSLoss', dict(classifier_prior=0.5), -math.log(99)),
        ('BucketedRSLoss', dict(classifier_prior=0.5, score_prior=0.5), 0),
    ],
)
def test_matched_layers_equal_loops(loss, settings, shift):
    """Targets too: the cheapest assignment of all, with class cost 2 for focal and 4 for ranking losses.

    For the costs, a ranking logit that the classifier starts with is a probability of 0.01 by default.
    """
    head = query_head(loss, **settings)
    sizes = [(160, 100), (60, 90)]
    metas = [dict(img_shape=size[::-1]) for size in sizes]
    layers = [predictions(seed) for seed in (1, 2)]
    encoder = predictions(3)
    torch.manual_seed(4)
    truth = [
        InstanceData(
            bboxes=torch.tensor([[20.0, 30, 90, 70], [70, 10, 150, 60], [5, 5, 60, 90]]), labels=torch.tensor([2, 0, 2])
        ),
        InstanceData(bboxes=torch.tensor([[10.0, 20, 40, 60]]), labels=torch.tensor([4])),
    ]
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, 6] = False
    fast = head.loss_by_feat(
        torch.stack([logits for logits, _ in layers]),
        torch.stack([boxes for _, boxes in layers]),
        *encoder,
        truth,
        metas,
        enc_valid=valid,
    )
    slow = {}
    for prefix, (logits, boxes) in {'d0.': layers[0], '': layers[1], 'enc.': encoder}.items():
        labels, target_boxes = torch.full((2, 7), NUM_CLASSES), torch.zeros(2, 7, 4)
        for i, (image, size) in enumerate(zip(truth, sizes, strict=True)):
            x1, y1, x2, y2 = image.bboxes.unbind(1)
            normalised = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1) / torch.tensor([*size, *size])
            classes = [0] * len(image) if prefix == 'enc.' else image.labels.tolist()
            with torch.no_grad():
                cost = 2.0 if loss == 'FocalLoss' else 4.0
                order = best_assignment(logits[i] + shift, boxes[i], classes, normalised, size, cost)
            for g, q in enumerate(order):
                labels[i, q], target_boxes[i, q] = classes[g], normalised[g]
        weights = valid.float() if prefix == 'enc.' else torch.ones(2, 7)
        targets = QueryTargets(labels, weights, target_boxes)
        losses, _ = slow_query_losses(loss, as_queries(logits, boxes, targets, metas), class_weight=2.0)
        slow |= {prefix + name: value for name, value in losses.items()}
    assert {name: value.item() for name, value in fast.items()} == pytest.approx(slow, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize('loss', ['FocalLoss', 'BucketedRSLoss'])
def test_objects_are_matched_with_valid_locations_only(loss):
    """An invalid location holds the box of the object itself; the losses are those of the valid locations alone."""
    head = query_head(loss)
    metas = [dict(img_shape=(100, 160)), dict(img_shape=(90, 60))]
    logits, boxes = (value.detach().clone() for value in predictions(3))
    truth = [
        InstanceData(bboxes=torch.tensor([[0.0, 0, 160, 100], [70, 10, 150, 60]]), labels=torch.tensor([2, 0])),
        InstanceData(bboxes=torch.tensor([[0.0, 0, 60, 90], [10, 20, 40, 60]]), labels=torch.tensor([4, 1])),
    ]
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[0, [1, 4]] = valid[1, [0, 6]] = False
    boxes[~valid] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    logits[~valid] = 5.0
    decoder = tuple(value[None] for value in predictions(1))
    targets = head.match(logits, boxes, truth, metas, valid)
    assert (targets.labels < NUM_CLASSES).sum(1).tolist() == [2, 2], 'no object is dropped'
    assert torch.equal(targets.weights, valid.float())
    assert (targets.labels[~valid] == NUM_CLASSES).all() and not targets.boxes[~valid].any()
    losses = head.loss_by_feat(*decoder, logits, boxes, truth, metas, enc_valid=valid)
    alone = (value[valid].reshape(2, 5, -1) for value in (logits, boxes))
    for name, value in head.loss_by_feat(*decoder, *alone, truth, metas).items():
        torch.testing.assert_close(losses[name], value)
    none = head.match(logits, boxes, truth, metas, torch.zeros_like(valid))
    assert (none.labels == NUM_CLASSES).all() and not none.weights.any()


def test_all_decoder_layers_learn_the_auxiliary_targets():
    head = shake(query_head('BucketedRSLoss'))
    metas = [dict(img_shape=(100, 160))] * 2
    torch.manual_seed(0)
    hidden, first = torch.randn(2, 2, 7, 256), torch.rand(2, 7, 4)
    targets = QueryTargets(torch.randint(NUM_CLASSES + 1, (2, 7)), torch.ones(2, 7), torch.rand(2, 7, 4) * 0.4 + 0.2)
    references = [first, (head.reg_branches[0](hidden[0]) + first.logit()).sigmoid().detach(), first]
    losses = head.query_losses(head.auxiliary_sets('aux0.', hidden, references, targets), metas)
    for layer, prefix in enumerate(('d0.', '')):
        logits = head.cls_branches[layer](hidden[layer])
        boxes = (head.reg_branches[layer](hidden[layer]) + references[layer].logit()).sigmoid()
        slow, _ = slow_query_losses('BucketedRSLoss', as_queries(logits, boxes, targets, metas), class_weight=2.0)
        for name, value in slow.items():
            assert losses['aux0.' + prefix + name].item() == pytest.approx(value, rel=1e-4)
