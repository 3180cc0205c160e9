"""Co-DETR and BRS-DETR: the base against MMDetection's, every loss against loops, and what training and users meet."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

from detr_reference import Query, best_assignment, slow_query_losses
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from bucketed_losses.mmdet.models.dense_heads import QueryTargets
from bucketed_losses.mmdet.models.detectors import draw_auxiliary_queries

ROOT = Path(__file__).resolve().parents[3]
BASELINE = 'configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py'
BRS = 'configs/brs_detr/brs-detr_r50_8xb2-12e_coco.py'
BOTH = pytest.mark.parametrize('config', [BASELINE, BRS])
NUM_CLASSES = 5
AUXILIARY = ('rpn_head', 'roi_heads', 'dense_heads')


def load(config, num_classes=NUM_CLASSES, **model):
    """The published detector, small: ResNet-18, two layers each, 20 queries."""
    cfg = Config.fromfile(ROOT / config)
    init_default_scope('mmdet')
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.in_channels = [128, 256, 512]
    for stack in (cfg.model.encoder, cfg.model.decoder):
        stack.num_layers = 2
        stack.layer_cfg.ffn_cfg.feedforward_channels = 32
    cfg.model.num_queries = 20
    for head in (cfg.model.bbox_head, cfg.model.roi_heads.bbox_head, cfg.model.dense_heads):
        head.num_classes = num_classes
    cfg.model.roi_heads.bbox_head.fc_out_channels = 16
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
    cfg.model.test_cfg.update(max_per_img=10)
    cfg.merge_from_dict({f'model.{key}': value for key, value in model.items()})
    return cfg.model


def without_auxiliary_heads(model):
    return {key: value for key, value in model.items() if key not in AUXILIARY}


def build(model, seed=0):
    torch.manual_seed(seed)
    detector = MODELS.build(copy.deepcopy(dict(model)))
    detector.init_weights()
    return detector


def shake(detector, seed=1):
    """Random weights everywhere: fresh ones give all locations the same scores and no offsets."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return detector


def batch(detector, num_items=(2, 3), sizes=((128, 128), (128, 64)), training=True):
    inputs = demo_mm_inputs(
        len(sizes), [[3, *size] for size in sizes], num_classes=NUM_CLASSES, num_items=list(num_items)
    )
    return detector.data_preprocessor(inputs, training=training)


def losses_after_backward(detector, data):
    losses = detector(**data, mode='loss')
    total, _ = detector.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    missing = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, 'DDP would wait for these'
    scalars = {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}
    return {name: value.item() for name, value in scalars.items() if 'loss' in name}


def names(head, parts):
    return {f'{prefix}{part}' for prefix in head for part in parts}


@BOTH
def test_every_part_of_eq_15_is_logged_and_every_parameter_trained(config):
    detector = build(load(config)).train()
    losses = losses_after_backward(detector, batch(detector))
    cls = ('loss_cls',) if config == BASELINE else ('loss_rank', 'loss_sort')
    queries = names(('enc.', 'd0.', '', 'aux0.d0.', 'aux0.', 'aux1.d0.', 'aux1.'), (*cls, 'loss_bbox', 'loss_iou'))
    roi = names(('roi0.',), (*cls, 'loss_bbox'))
    dense = names(('atss1.',), (*cls, 'loss_bbox', *(['loss_centerness'] if config == BASELINE else [])))
    rpn = {name.replace('loss_', 'loss_rpn_') for name in (*cls, 'loss_bbox')}
    assert set(losses) == queries | roi | dense | rpn
    zero = {name for name, value in losses.items() if value == 0}
    assert not zero - {'roi0.loss_sort'}, 'every part has something to say'
    dead = [n for n, p in detector.named_parameters() if p.requires_grad and n.startswith('aux') and not p.grad.any()]
    assert not dead


@BOTH
def test_lambda_1_weighs_the_auxiliary_queries_alone(config):
    parts = []
    for weight in (1.0, 3.0):
        detector = build(load(config, **{'bbox_head.lambda_1': weight})).train()
        data = batch(detector)
        torch.manual_seed(0)
        parts.append(losses_after_backward(detector, data))
    for name, value in parts[0].items():
        assert parts[1][name] == pytest.approx(value * (3 if name.startswith('aux') else 1), rel=1e-4), name


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss'])
def test_the_other_ranking_losses_can_be_chosen(loss):
    model = load(BRS)
    for head in (model.bbox_head, model.rpn_head, model.roi_heads.bbox_head, model.dense_heads):
        head.loss_cls.type = loss
    losses = losses_after_backward(detector := build(model).train(), batch(detector))
    assert ('enc.loss_sort' in losses) == ('RS' in loss)
    balanced = losses['d0.loss_bbox'] == pytest.approx(losses['d0.loss_iou'])
    assert balanced == ('RS' in loss), 'AP losses leave the weights of L1 and GIoU to the user'


# ---------------------------------------------------------------------------------------------------------------------
# The base


def stock(model):
    """MMDetection's own detector of the same sizes."""
    model = without_auxiliary_heads(copy.deepcopy(dict(model)))
    for key in ('mixed_selection', 'num_co_heads'):
        model.pop(key, None)
    model['bbox_head'] = dict(model['bbox_head'], type='DeformableDETRHead')
    model['bbox_head'].pop('look_forward_twice', None)
    return dict(model, type='DeformableDETR')


def equal_samples(a, b):
    for mine, theirs in zip(a, b, strict=True):
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(mine.pred_instances[key], theirs.pred_instances[key], rtol=1e-5, atol=1e-5)


def test_without_auxiliary_heads_it_is_mmdetections_two_stage_deformable_detr():
    model = without_auxiliary_heads(load(BASELINE, **{'mixed_selection': False, 'bbox_head.look_forward_twice': False}))
    ours, theirs = build(model).train(), build(stock(model)).train()
    ours.load_state_dict(shake(theirs).state_dict())
    data = batch(theirs, sizes=((128, 128), (128, 128)))
    grads, losses = [], []
    for detector in (ours, theirs):
        found = losses_after_backward(detector, copy.deepcopy(data))
        losses.append({name.replace('enc.', 'enc_'): value for name, value in found.items()})
        grads.append({name: p.grad for name, p in detector.named_parameters() if p.requires_grad})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-4 * float(grad.abs().max()))

    # With padding too, as long as MMDetection does not make queries of locations that hold no proposal.
    data = batch(theirs, training=False)
    chosen = []
    original = theirs.forward_decoder
    theirs.forward_decoder = lambda **kwargs: chosen.append(kwargs['reference_points']) or original(**kwargs)
    results = []
    for detector in (ours, theirs):
        detector.eval()
        # The bias alone scores such locations: the worst of all.
        with torch.no_grad():
            detector.memory_trans_fc.bias.zero_()
            detector.memory_trans_norm.bias.zero_()
            detector.num_queries = 10
            results.append(detector(**copy.deepcopy(data), mode='predict'))
    assert not (chosen[0] == 1).all(-1).any()
    equal_samples(*results)


@pytest.mark.parametrize('with_box_refine', [True, False])
def test_without_two_stages_it_is_mmdetections_deformable_detr(with_box_refine):
    options = dict(as_two_stage=False, with_box_refine=with_box_refine, mixed_selection=False)
    model = load(BASELINE, **options, **{'bbox_head.look_forward_twice': False})
    ours, theirs = build(without_auxiliary_heads(model)).train(), build(stock(model)).train()
    ours.load_state_dict(shake(theirs).state_dict())
    data = batch(theirs)
    losses = [losses_after_backward(detector, copy.deepcopy(data)) for detector in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    grads = [
        {name: p.grad for name, p in detector.named_parameters() if p.requires_grad} for detector in (ours, theirs)
    ]
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-4 * float(grad.abs().max()))
    taught = losses_after_backward(build(model).train(), copy.deepcopy(data))
    assert taught['aux1.d0.loss_bbox'] > 0 and 'enc.loss_bbox' not in taught


def test_the_query_head_is_a_drop_in_for_mmdetections():
    model = stock(load(BASELINE))
    plain = build(model).train()
    dropped_in = build(dict(model, bbox_head=dict(model['bbox_head'], type='CoDeformDETRHead'))).train()
    dropped_in.load_state_dict(shake(plain).state_dict())
    data = batch(plain)
    theirs = losses_after_backward(plain, copy.deepcopy(data))
    ours = losses_after_backward(dropped_in, copy.deepcopy(data))
    assert {name.replace('enc.', 'enc_'): value for name, value in ours.items()} == pytest.approx(theirs, rel=1e-5)
    ranked = dict(model['bbox_head'], type='RankBasedCoDeformDETRHead', loss_cls=dict(type='BucketedRSLoss'))
    losses = losses_after_backward(build(dict(model, bbox_head=ranked)).train(), copy.deepcopy(data))
    assert losses['enc.loss_rank'] > 0


def test_looking_forward_twice_changes_gradients_and_not_boxes():
    found = []
    for twice in (True, False):
        model = without_auxiliary_heads(load(BASELINE, **{'bbox_head.look_forward_twice': twice}))
        head = shake(build(model)).bbox_head
        torch.manual_seed(0)
        first = torch.rand(1, 4, 4)
        hidden = torch.randn(2, 1, 4, 256)
        second = (head.reg_branches[0](hidden[0]) + first.logit()).sigmoid().detach()
        boxes = head(hidden, [first, second, second])[1]
        boxes[1].sum().backward()
        found.append((boxes.detach(), head.reg_branches[0][-1].bias.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert not found[1][1].any()
    assert found[0][1].abs().min() > 0


@BOTH
def test_images_of_one_size_are_predicted_as_if_alone(config):
    detector = shake(build(load(config))).eval()
    inputs = demo_mm_inputs(2, [[3, 96, 128]] * 2, num_classes=NUM_CLASSES)
    with torch.no_grad():
        together = detector(**detector.data_preprocessor(inputs, False), mode='predict')
        for i in range(2):
            one = {key: value[i : i + 1] for key, value in inputs.items()}
            equal_samples(detector(**detector.data_preprocessor(one, False), mode='predict'), together[i : i + 1])


@BOTH
def test_what_lies_in_the_padding_has_no_influence(config):
    """On the neck's maps: MMDetection's GroupNorm before them takes its statistics from the padding as well."""
    # Of 340 locations in the padded image 170 are not padding; of the small image all are used.
    detector = shake(build(load(config, num_queries=170))).eval()

    def sample(height, width, padded):
        return DetDataSample(metainfo=dict(img_shape=(height, width), batch_input_shape=padded, scale_factor=(1, 1)))

    torch.manual_seed(0)
    alone = [torch.randn(1, 256, 16 // 2**level, 8 // 2**level) for level in range(4)]
    other = [torch.randn(1, 256, 16 // 2**level, 16 // 2**level) for level in range(4)]
    garbage = [torch.cat([maps, 100 * torch.randn_like(maps)], dim=3) for maps in alone]
    results = []
    for maps, samples in (
        (alone, [sample(128, 64, (128, 64))]),
        (
            [torch.cat(pair) for pair in zip(garbage, other, strict=True)],
            [sample(128, 64, (128, 128)), sample(128, 128, (128, 128))],
        ),
    ):
        with torch.no_grad():
            decoded = detector.forward_transformer(maps, samples)
            results.append(detector.bbox_head(**decoded))
    for mine, theirs in zip(*results, strict=True):
        assert mine.shape[2] == 16 * 8 + 8 * 4 + 4 * 2 + 2 * 1 == theirs.shape[2]
        torch.testing.assert_close(mine[:, 0], theirs[:, 0], rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Auxiliary heads at inference


@BOTH
def test_inference_does_not_know_the_auxiliary_heads(config):
    model = load(config)
    full = shake(build(model)).eval()
    lean = build(without_auxiliary_heads(model)).eval()
    extra = lean.load_state_dict(full.state_dict(), strict=False)
    assert not extra.missing_keys
    assert {name.split('.')[0] for name in extra.unexpected_keys} == {*AUXILIARY, 'downsample', 'auxiliary_queries'}
    ran = set()
    for name, module in full.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.add(name.split('.')[0]))
    data = batch(full, training=False)
    with torch.no_grad():
        equal_samples(full(**copy.deepcopy(data), mode='predict'), lean(**copy.deepcopy(data), mode='predict'))
    assert 'decoder' in ran and not ran & {*AUXILIARY, 'downsample', 'auxiliary_queries'}


@BOTH
@pytest.mark.parametrize('head', ['roi0', 'atss1'])
def test_an_auxiliary_head_can_be_evaluated(config, head):
    detector = shake(build(load(config, **{'test_cfg.head': head}))).eval()
    ran = set()
    for name, module in detector.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.add(name.split('.')[0]))
    with torch.no_grad():
        results = detector(**batch(detector, training=False), mode='predict')
    assert all(len(result.pred_instances) > 0 for result in results)
    used = {'roi0': {'rpn_head', 'roi_heads'}, 'atss1': {'dense_heads'}}[head]
    assert used <= ran and not ran & ({*AUXILIARY, 'decoder'} - used)


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
    width, height = 100, 200
    for i, (num_positive, num_negative, num_ignored) in enumerate(sizes):
        labels, weights, targets = (field[i] for field in group.targets)
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


def predictions(seed, num_queries=7):
    torch.manual_seed(seed)
    logits = torch.randn(2, num_queries, NUM_CLASSES, requires_grad=True)
    centres, extents = torch.rand(2, num_queries, 2) * 0.4 + 0.3, torch.rand(2, num_queries, 2) * 0.3 + 0.1
    boxes = torch.cat([centres, extents], dim=-1).requires_grad_()
    return logits, boxes


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


def query_head(loss):
    model = load(BASELINE if loss == 'FocalLoss' else BRS)
    model.bbox_head.loss_cls.type = loss
    return build(without_auxiliary_heads(model)).bbox_head


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
    fast = head.query_losses(logits, boxes, targets, metas)
    slow, total = slow_query_losses(loss, as_queries(logits, boxes, targets, metas), class_weight=2.0)
    assert {name: value.item() for name, value in fast.items()} == pytest.approx(slow, rel=1e-5, abs=1e-6)
    expected = torch.autograd.grad(total, (logits, boxes), allow_unused=True, materialize_grads=True)
    actual = torch.autograd.grad(sum(fast.values()), (logits, boxes))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not actual[0][1, 2].any() and not actual[1][1, 2].any(), 'weight 0 trains nothing'


@pytest.mark.parametrize('loss', ['FocalLoss', 'BucketedRSLoss'])
def test_matched_layers_equal_loops(loss):
    """Targets too: the cheapest assignment of all, with class cost 2 for focal and 4 for ranking losses.

    For the costs a ranking logit of 0 is a probability of 0.01.
    """
    head = query_head(loss)
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
                if loss == 'FocalLoss':
                    order = best_assignment(logits[i], boxes[i], classes, normalised, size, 2.0)
                else:
                    order = best_assignment(logits[i] - math.log(99), boxes[i], classes, normalised, size, 4.0)
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
    losses = head.auxiliary_loss(hidden, references, targets, metas)
    for layer, prefix in enumerate(('d0.', '')):
        logits = head.cls_branches[layer](hidden[layer])
        boxes = (head.reg_branches[layer](hidden[layer]) + references[layer].logit()).sigmoid()
        slow, _ = slow_query_losses('BucketedRSLoss', as_queries(logits, boxes, targets, metas), class_weight=2.0)
        for name, value in slow.items():
            assert losses[prefix + name].item() == pytest.approx(value, rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# What training meets


def step(detector, data, optimizer):
    total, _ = detector.parse_losses(detector(**copy.deepcopy(data), mode='loss'))
    optimizer.zero_grad()
    total.backward()
    optimizer.step()


def test_training_repeats_itself_under_a_seed():
    states = []
    for seed in (7, 7, 8):
        # ATSS has 9 positives per object here: more than the 10 queries that its group may have.
        detector = build(load(BRS, max_pos_coords=10)).train()
        data = batch(detector, num_items=(4, 4))
        torch.manual_seed(seed)
        optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
        for _ in range(2):
            step(detector, data, optimizer)
        states.append(detector.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0]), 'the seed draws the queries'


@BOTH
@pytest.mark.parametrize('situation', ['no objects', 'all crowd', 'one object', 'one image without objects'])
def test_training_goes_on(config, situation):
    detector = build(load(config)).train()
    num_items = {'no objects': (0, 0), 'all crowd': (2, 3), 'one object': (1, 0), 'one image without objects': (4, 0)}
    data = batch(detector, num_items[situation])
    if situation == 'all crowd':
        for sample in data['data_samples']:
            sample.ignored_instances = InstanceData(bboxes=sample.gt_instances.bboxes)
            sample.gt_instances = sample.gt_instances[:0]
    losses = losses_after_backward(detector, data)
    boxes = {name: value for name, value in losses.items() if 'bbox' in name or 'iou' in name}
    if situation in ('no objects', 'all crowd'):
        assert not any(boxes.values())
        assert config == BASELINE or not any(losses.values())
    else:
        assert all(boxes.values())


@BOTH
def test_more_objects_than_queries_than_locations(config):
    detector = build(load(config, num_queries=900)).train()
    data = batch(detector, (30, 25), sizes=((64, 64), (64, 64)))
    losses_after_backward(detector, data)  # 85 locations, so 85 queries
    detector = build(load(config, num_queries=5)).train()
    losses = losses_after_backward(detector, batch(detector, (30, 25)))
    assert losses['loss_bbox'] > 0
    detector.eval()
    detector.bbox_head.test_cfg['max_per_img'] = 5
    with torch.no_grad():
        assert len(detector(**batch(detector, training=False), mode='predict')[0].pred_instances) == 5


@BOTH
@pytest.mark.parametrize('most', [100, 5, None])
def test_images_with_fewer_queries_than_detections_are_wanted(config, most):
    """A 64 x 64 image has 85 locations, which are 85 queries of one class."""
    detector = shake(build(load(config, num_classes=1, num_queries=300))).eval()
    detector.bbox_head.test_cfg.pop('max_per_img')
    if most:
        detector.bbox_head.test_cfg['max_per_img'] = most
    with torch.no_grad():
        (result,) = detector(**batch(detector, (1,), sizes=((64, 64),), training=False), mode='predict')
    detections = result.pred_instances
    assert len(detections) == min(most or 85, 85)
    assert (detections.scores.diff() <= 0).all() and (detections.labels == 0).all()
    assert detector.bbox_head.test_cfg.get('max_per_img') == most


@BOTH
@pytest.mark.parametrize('head', ['rcnn', 'dense', 'rpn'])
def test_one_auxiliary_head_without_positives(config, head):
    model = load(config)
    if head != 'dense':
        model.train_cfg[head].assigner.update(pos_iou_thr=1.1, min_pos_iou=1.1)
        model.train_cfg[head].sampler.update(add_gt_as_proposals=False)
    detector = build(model).train()
    if head == 'dense':
        original = detector.dense_heads[0].assigner.assign

        def nothing(*args):
            result = original(*args)
            result.gt_inds.zero_()
            return result

        detector.dense_heads[0].assigner.assign = nothing
    losses = losses_after_backward(detector, batch(detector))
    index, name = {'rcnn': (0, 'roi0'), 'dense': (1, 'atss1'), 'rpn': (None, 'loss_rpn')}[head]
    assert not any(value for key, value in losses.items() if key.startswith(name) and 'bbox' in key)
    if index is not None:
        assert losses[f'aux{index}.loss_bbox'] == losses[f'aux{index}.d0.loss_iou'] == 0
        assert losses[f'aux{1 - index}.loss_bbox'] > 0


def test_two_processes_without_looking_for_unused_parameters(tmp_path):
    """One of them never sees an object; they stay in step."""
    script = tmp_path / 'run.py'
    script.write_text(
        'import sys, torch\n'
        f'sys.path.insert(0, {str(ROOT / "tests/support")!r})\n'
        'import test_co_detr as t\n'
        'from torch.nn.parallel import DistributedDataParallel\n'
        'torch.distributed.init_process_group("gloo")\n'
        'rank = torch.distributed.get_rank()\n'
        'detector = t.build(t.load(t.BRS)).train()\n'
        'ddp = DistributedDataParallel(detector, find_unused_parameters=False)\n'
        'optimizer = torch.optim.SGD(ddp.parameters(), lr=1e-3)\n'
        'for _ in range(2):\n'
        '    data = t.batch(detector, (0, 0) if rank else (3, 2))\n'
        '    total, _ = detector.parse_losses(ddp(**data, mode="loss"))\n'
        '    optimizer.zero_grad(); total.backward(); optimizer.step()\n'
        'for name, p in detector.named_parameters():\n'
        '    mine = p.detach().clone(); torch.distributed.broadcast(mine, 0)\n'
        '    assert torch.equal(mine, p), name\n'
        'print("in step")\n'
    )
    run = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', script],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.stdout.count('in step') == 2, run.stderr[-3000:]


# ---------------------------------------------------------------------------------------------------------------------
# Configs that do not fit


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(num_co_heads=3), ['num_co_heads=3', '2 auxiliary heads']),
        (dict(rpn_head=None), ['roi_heads need one rpn_head']),
        (dict(roi_heads=[]), ['rpn_head needs roi_heads', 'RankBasedRPNHead']),
        ({'dense_heads.type': 'RankBasedATSSHead'}, ['dense_heads[0] is a RankBasedATSSHead', 'RankBasedCoATSSHead']),
        ({'roi_heads.type': 'RankBasedRoIHead'}, ['roi_heads[0] is a RankBasedRoIHead', 'RankBasedCoRoIHead']),
        ({'test_cfg.head': 'atss0'}, ["'query', 'roi0', 'atss1'", "'atss0'"]),
        (dict(as_two_stage=False), ['mixed_selection=True', 'as_two_stage=True']),
        (dict(min_pos_coords=400), ['min_pos_coords', '400 and 300']),
        ({'dense_heads.num_classes': 7}, ['same num_classes', "'roi0': 5, 'atss1': 7"]),
        ({'train_cfg.dense': [{}, {}]}, ['train_cfg.dense has 2 entries for 1 heads']),
        ({'bbox_head.score_prior': 1.0}, ['score_prior', '1.0']),
        ({'bbox_head.type': 'CoDeformDETRHead'}, ["type='RankBasedCoDeformDETRHead'"]),
        ({'dense_heads.type': 'CoATSSHead'}, ["type='RankBasedCoATSSHead'"]),
        ({'bbox_head.loss_cls': dict(type='FocalLoss', use_sigmoid=True)}, ['FocalLoss', "type='CoDeformDETRHead'"]),
    ],
)
def test_configs_that_do_not_fit_say_so(change, words):
    model = load(BRS)
    for key, value in change.items():
        *parents, last = key.split('.')
        part = model
        for parent in parents:
            part = part[parent]
        part[last] = value
    with pytest.raises(ValueError) as caught:
        MODELS.build(model)
    for word in words:
        assert word in str(caught.value)


def test_several_heads_of_a_kind():
    model = load(BASELINE)
    for key in ('roi_heads', 'dense_heads'):
        model[key] = [model[key], copy.deepcopy(model[key])]
    model.num_co_heads = 4
    detector = build(model).train()
    assert detector.head_names == ['roi0', 'roi1', 'atss2', 'atss3']
    assert detector.auxiliary_queries.head_embedding.weight.shape == (4, 256), 'not the one number of the original'
    losses = losses_after_backward(detector, batch(detector))
    assert all(losses[f'{name}.loss_cls'] > 0 for name in ('roi1', 'atss3', 'aux1.d0', 'aux3'))


def test_classifiers_of_ranking_losses_start_at_zero():
    brs, baseline = build(load(BRS)).bbox_head, build(load(BASELINE)).bbox_head
    assert not any(branch.bias.any() for branch in brs.cls_branches)
    assert all(branch.bias.max() < -4 for branch in baseline.cls_branches)


def test_the_tools_train_it_and_test_every_head(shapes_root, tmp_path):
    pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')
    config = 'configs/shapes/co-deformable-detr_efficientnet-lite0_brs_1xb4-12e_shapes.py'
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'SHAPES_ROOT': str(shapes_root)}

    def run(tool, *args):
        done = subprocess.run(
            [sys.executable, f'tools/{tool}.py', config, *args], cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    log = run(
        'train', '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1'
    )
    for name in (
        'enc.loss_rank',
        'd0.loss_sort',
        'loss_rpn_bbox',
        'roi0.loss_rank',
        'atss1.loss_sort',
        'aux1.d1.loss_iou',
    ):
        assert f' {name}: ' in log
    for head in ('roi0', 'atss1'):
        options = [f'model.test_cfg.head={head}', 'model.test_cfg.rpn.max_per_img=20']
        assert 'coco/bbox_mAP: ' in run(
            'test', tmp_path / 'epoch_1.pth', '--work-dir', tmp_path / head, '--cfg-options', *options
        )
