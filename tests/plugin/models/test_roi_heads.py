"""R-CNN box, mask and RoI heads against slow computations, and in the situations training meets."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from head_reference import slow_losses

pytest.importorskip('mmdet')

from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from small_roi_heads import (
    DICE,
    NUM_CLASSES,
    SIZE,
    batch,
    bbox_head_cfg,
    build,
    predictions_of_rois,
    random_rois,
    roi_head_cfg,
)

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

EACH = pytest.mark.parametrize('name', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
BBOX_HEADS = pytest.mark.parametrize(
    'head_type',
    [
        'RankBasedShared2FCBBoxHead',
        'RankBasedShared4Conv1FCBBoxHead',
        'RankBasedConvFCBBoxHead',
        'RankBasedSCNetBBoxHead',
    ],
)
# The forward passes of these take other inputs: two maps, and flat features.
MORE_BBOX_HEADS = ['RankBasedDoubleConvFCBBoxHead', 'RankBasedBBoxHead']
EVERY_BBOX_HEAD = pytest.mark.parametrize('head_type', [*BBOX_HEADS.args[1], *MORE_BBOX_HEADS])
MASK_LOSSES = pytest.mark.parametrize('loss_mask', [None, DICE], ids=['cross-entropy', 'dice'])
AGNOSTIC = pytest.mark.parametrize('agnostic', [False, True], ids=['class-specific', 'class-agnostic'])


@EACH
@AGNOSTIC
@EVERY_BBOX_HEAD
def test_box_losses_equal_a_slow_computation(head_type, agnostic, name):
    head = build(bbox_head_cfg(name, head_type, agnostic))
    rois, labels, weights, targets, box_weights = random_rois()
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(rois), NUM_CLASSES, generator=generator).requires_grad_()
    deltas = torch.randn(len(rois), 4 if agnostic else 4 * NUM_CLASSES, generator=generator).requires_grad_()
    losses = head.loss(logits, deltas, rois, labels, weights, targets, box_weights)
    accuracy = losses.pop('acc_classes')
    grads = torch.autograd.grad(sum(losses.values()), (logits, deltas))

    predictions = predictions_of_rois(logits, deltas, rois, labels, weights, targets)
    expected, total = slow_losses(name, predictions, box_weight=1.5)
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert value > 0 and losses[key].item() == pytest.approx(value, abs=1e-5)
    for got, want in zip(grads, torch.autograd.grad(total, (logits, deltas)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    correct = [int(logits[i].argmax()) == int(labels[i]) for i in range(12)]
    assert accuracy.item() == pytest.approx(100 * sum(correct) / 12)


@EVERY_BBOX_HEAD
def test_classifiers_start_with_a_bias_of_zero(head_type):
    head = build(bbox_head_cfg(head_type=head_type))
    (bias,) = head.classifier_biases()
    assert bias is head.fc_cls.bias and bias.eq(0).all()


@EACH
@AGNOSTIC
@BBOX_HEADS
def test_box_head_without_positives_or_rois(head_type, agnostic, name):
    for num in (5, 0):
        head = build(bbox_head_cfg(name, head_type, agnostic))
        cls_score, bbox_pred = head(torch.randn(num, 4, 3, 3))
        labels = torch.full((num,), NUM_CLASSES)
        losses = head.loss(
            cls_score, bbox_pred, torch.rand(num, 5), labels, torch.ones(num), torch.zeros(num, 4), torch.zeros(num, 4)
        )
        values = [value for key, value in losses.items() if 'loss' in key]
        assert values and all(value == 0 for value in values)
        sum(values).backward()
        assert all(p.grad is not None and p.grad.eq(0).all() for p in head.parameters())


def slow_cross_entropy(logits, target):
    pixels = [math.log1p(math.exp(-x if t > 0.5 else x)) for x, t in zip(logits, target, strict=True)]
    return sum(pixels) / len(pixels)


def slow_dice(logits, target):
    """Per instance, as published: ``1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + 1e-5)``."""
    probabilities = [1 / (1 + math.exp(-x)) for x in logits]
    both = sum(p * t for p, t in zip(probabilities, target, strict=True))
    return 1 - 2 * both / (sum(p * p for p in probabilities) + sum(t * t for t in target) + 1e-5)


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize(
    ('loss_mask', 'slow'), [(None, slow_cross_entropy), (DICE, slow_dice)], ids=['cross-entropy', 'dice']
)
def test_mask_losses_of_random_masks(loss_mask, slow, agnostic):
    """Two images with 5 and 4 positives; the mask of one of them is empty."""
    head = build(roi_head_cfg(agnostic_mask=agnostic, loss_mask=loss_mask)).mask_head
    generator = torch.Generator().manual_seed(0)
    sizes = (5, 4)
    masks = 3 * torch.randn(9, 1 if agnostic else NUM_CLASSES, 28, 28, generator=generator)
    targets = (torch.rand(9, 28, 28, generator=generator) < torch.rand(9, 1, 1, generator=generator)).float()
    targets[3] = 0
    labels = torch.randint(0, NUM_CLASSES, (9,), generator=generator)
    scores = torch.rand(9, generator=generator)
    results = [
        SimpleNamespace(pos_scores=part, pos_gt_labels=own)
        for part, own in zip(scores.split(sizes), labels.split(sizes), strict=True)
    ]
    head.get_targets = lambda *args: targets
    masks.requires_grad_()
    loss = head.loss_and_target(masks, results, [], None)['loss_mask']['loss_mask']
    own_class = [masks[i, 0 if agnostic else label].flatten().tolist() for i, label in enumerate(labels.tolist())]
    each = [slow(logits, target) for logits, target in zip(own_class, targets.flatten(1).tolist(), strict=True)]
    expected = sum(w * x for w, x in zip(scores.tolist(), each, strict=True)) / sum(scores.tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    touched = masks.grad.abs().sum(dim=(2, 3)) > 0
    own = torch.zeros_like(touched)
    own[torch.arange(9), torch.zeros_like(labels) if agnostic else labels] = True
    assert not touched[~own].any(), 'the masks of other classes get no gradient'
    assert touched[own].sum() >= 8, 'Dice Loss has no gradient for an empty mask'


@EACH
@pytest.mark.parametrize('agnostic_mask', [False, True])
def test_mask_loss_equals_a_slow_computation(name, agnostic_mask):
    head = build(roi_head_cfg(name, agnostic_mask=agnostic_mask))
    seen = {}
    head.bbox_head.register_forward_hook(lambda module, args, out: seen.update(scores=out[0]))
    head.mask_head.register_forward_hook(lambda module, args, out: seen.update(masks=out))
    original = head.mask_head.get_targets

    def remember(sampling_results, *args):
        seen['positives'] = sampling_results
        seen['targets'] = original(sampling_results, *args)
        return seen['targets']

    head.mask_head.get_targets = remember
    losses = head.loss(*batch())
    (grad,) = torch.autograd.grad(losses['loss_mask'], seen['masks'], retain_graph=True)

    labels = torch.cat([image.pos_gt_labels for image in seen['positives']])
    assert 20 < len(labels) <= 200
    # The positives come first in each image's part of the classifier's output, here 30 + 30 proposals + objects.
    scores = torch.cat(
        [
            part[: len(image.pos_gt_labels)].sigmoid().amax(dim=1)
            for part, image in zip(seen['scores'].detach().split([62, 63]), seen['positives'], strict=True)
        ]
    )
    per_mask = []
    for i, label in enumerate(labels.tolist()):
        logits = seen['masks'][i, 0 if agnostic_mask else label].flatten()
        pixels = [
            torch.log1p((-logit).exp()) if target > 0.5 else torch.log1p(logit.exp())
            for logit, target in zip(logits, seen['targets'][i].flatten(), strict=True)
        ]
        per_mask.append(scores[i] * sum(pixels) / len(pixels))
    expected = sum(per_mask) / scores.sum()
    if 'RS' in name:
        expected = expected * ((losses['loss_rank'] + losses['loss_sort']).detach() / expected.detach())
        assert losses['loss_bbox'].item() == pytest.approx(losses['loss_mask'].item(), abs=1e-5)
    assert losses['loss_mask'].item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, seen['masks'])[0], rtol=1e-4, atol=1e-5)


@MASK_LOSSES
def test_self_balancing_can_be_switched(loss_mask):
    unbalanced = {**bbox_head_cfg(), 'loss_cls': dict(type='RSLoss', self_balancing=False)}
    plain = build(roi_head_cfg(bbox_head=unbalanced, loss_mask=loss_mask))
    balanced = build(roi_head_cfg('RSLoss', loss_mask=loss_mask))
    inputs = [head.loss(*batch()) for head in (plain, balanced)]
    total = inputs[0]['loss_rank'] + inputs[0]['loss_sort']
    for key in ('loss_bbox', 'loss_mask'):
        assert inputs[1][key].item() == pytest.approx(total.item(), rel=1e-5)
        assert inputs[0][key].item() != pytest.approx(total.item(), rel=1e-2)


@EACH
@MASK_LOSSES
@pytest.mark.parametrize('stages', [0, 3])
def test_every_parameter_gets_a_gradient(stages, loss_mask, name):
    head = build(roi_head_cfg(name, stages, loss_mask=loss_mask))
    losses = head.loss(*batch())
    expected = ['loss_rank', 'loss_bbox', 'loss_mask', *(['loss_sort'] if 'RS' in name else [])]
    stage_names = [f's{i}.' for i in range(stages)] or ['']
    assert {key for key in losses if 'loss' in key} == {stage + key for stage in stage_names for key in expected}
    values = [value for key, value in losses.items() if 'loss' in key]
    assert all(math.isfinite(value.item()) and value > 0 for value in values)
    sum(values).backward()
    assert not [key for key, p in head.named_parameters() if p.grad is None]


def test_cascade_stage_weights_scale_every_loss_of_a_stage():
    plain, halved = (
        build(roi_head_cfg(stages=3, stage_loss_weights=w)).loss(*batch()) for w in ([1, 1, 1], [1, 0.5, 0.25])
    )
    for stage, weight in enumerate((1, 0.5, 0.25)):
        for part in ('loss_rank', 'loss_sort', 'loss_bbox', 'loss_mask'):
            key = f's{stage}.{part}'
            assert halved[key].item() == pytest.approx(weight * plain[key].item(), rel=1e-4)


SITUATIONS = {
    'no objects': dict(objects_per_image=(0, 0)),
    'one image without objects': dict(objects_per_image=(3, 0)),
    'no objects, no proposals': dict(objects_per_image=(0, 0), num_proposals=0),
}


@EACH
@MASK_LOSSES
@pytest.mark.parametrize('stages', [0, 3])
@pytest.mark.parametrize('situation', SITUATIONS)
def test_training_goes_on_without_positives(situation, stages, loss_mask, name):
    head = build(roi_head_cfg(name, stages, loss_mask=loss_mask))
    losses = head.loss(*batch(**SITUATIONS[situation]))
    values = [value for key, value in losses.items() if 'loss' in key]
    if 'no objects' in situation:
        assert all(value == 0 for value in values)
    assert all(math.isfinite(value.item()) for value in values)
    sum(values).backward()
    if situation != 'no objects, no proposals' or not stages:  # there MMDetection ends the cascade at its first stage
        assert not [key for key, p in head.named_parameters() if p.grad is None]


@EACH
def test_a_stage_without_positives(name):
    """Proposals that are good enough for the first stage only; ground truth is not added."""
    head = build(roi_head_cfg(name, 3, sampler=dict(type='PseudoSampler')))
    x, _, samples = batch()
    proposals = []
    for sample in samples:
        boxes = sample.gt_instances.bboxes
        width = boxes[:, 2] - boxes[:, 0]
        shifted = boxes + torch.stack([0.3 * width, 0 * width, 0.3 * width, 0 * width], dim=1)  # IoU 0.54
        proposals.append(InstanceData(bboxes=torch.cat([shifted, shifted + 40])))
    losses = head.loss(x, proposals, samples)
    assert losses['s0.loss_rank'] > 0 and losses['s0.loss_mask'] > 0
    for part in ('loss_rank', 'loss_bbox', 'loss_mask'):
        assert losses[f's2.{part}'] == 0
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    assert not [key for key, p in head.named_parameters() if p.grad is None]


def positives(*sizes):
    """Sampling results whose RoIs are numbered, as far as masks read them."""
    return [
        SimpleNamespace(
            pos_priors=torch.full((size, 4), float(image)),
            pos_assigned_gt_inds=torch.arange(size),
            pos_gt_labels=torch.zeros(size, dtype=torch.long),
            pos_scores=torch.full((size,), 0.5),
        )
        for image, size in enumerate(sizes)
    ]


def test_at_most_200_masks_drawn_without_bias_between_images():
    head = build(roi_head_cfg())
    torch.manual_seed(0)
    draws = 400
    counts = torch.zeros(3)
    hits = torch.zeros(300)
    for _ in range(draws):
        kept = head.mask_positives(positives(300, 0, 100))
        sizes = [len(image) for image in kept]
        assert sum(sizes) == 200
        counts += torch.tensor(sizes)
        hits[kept[0].pos_assigned_gt_inds] += 1
        assert all((image.pos_priors == index).all() for index, image in enumerate(kept))
    # Hypergeometric: 150 of image 0 on average, standard deviation 4.3 per draw.
    assert (counts / draws)[0] == pytest.approx(150, abs=5 * 4.34 / draws**0.5)
    assert counts[1] == 0
    # Each positive is kept half of the time: binomial, standard deviation 10 of 400.
    assert hits.min() > 200 - 50 and hits.max() < 200 + 50
    few = head.mask_positives(positives(3, 0, 197))
    assert [len(image) for image in few] == [3, 0, 197]


@pytest.mark.parametrize('std', [None, 0.01])
def test_mask_logits_start_small_if_asked(std):
    """With MMDetection's initialisation, Dice Loss gets no gradient from most pixels if there are few classes."""
    torch.manual_seed(0)
    head = build(dict(type='RankBasedFCNMaskHead', num_classes=2, logits_std=std, loss_mask=DICE))
    head.init_weights()
    spread = head.conv_logits.weight.std().item()
    assert spread == pytest.approx(1.0 if std is None else std, rel=0.2) and not head.conv_logits.bias.any()


def test_mask_draws_follow_the_seed():
    head = build(roi_head_cfg(max_mask_positives=5))
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(torch.cat([image.pos_assigned_gt_inds for image in head.mask_positives(positives(50, 50))]))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize('stages', [0, 3])
def test_predictions(stages):
    head = build(roi_head_cfg(stages=stages)).eval()
    x, proposals, samples = batch()
    with torch.no_grad():
        results = head.predict(x, proposals, samples)
    for result in results:
        assert 0 < len(result) <= 10
        assert (result.labels < NUM_CLASSES).all() and ((result.scores > 0.4) & (result.scores < 1)).all()
        assert result.masks.shape[1:] == (SIZE, SIZE)


def test_bfloat16_autocast_keeps_the_losses_in_float32():
    head = build(roi_head_cfg())
    exact = head.loss(*batch())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.loss(*batch())
    for key in ('loss_rank', 'loss_sort', 'loss_bbox', 'loss_mask'):
        assert losses[key].dtype == torch.float32
        assert losses[key].item() == pytest.approx(exact[key].item(), rel=0.1)


@pytest.mark.parametrize('stages', [0, 3])
def test_predictions_in_bfloat16(stages):
    """As a teacher predicts inside of a training step: MMCV's RoIAlign does not take bfloat16 on a CPU."""
    head = build(roi_head_cfg(stages=stages, mask=False)).eval()
    x, proposals, samples = batch()
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        results = head.predict(tuple(level.bfloat16() for level in x), proposals, samples)
    assert all(result.scores.isfinite().all() for result in results)


@pytest.mark.parametrize('stages', [0, 3])
def test_masks_are_weighted_as_boxes_are(stages):
    cfg = roi_head_cfg(stages=stages)
    equal = dict(type='BucketedRSLoss', box_weights='equal')
    heads = cfg['bbox_head'] if stages else [cfg['bbox_head']]
    cfg['bbox_head'] = [{**head, 'loss_cls': equal} for head in heads] if stages else {**heads[0], 'loss_cls': equal}
    head = build(cfg)
    seen = []
    for mask_head in head.mask_head if stages else [head.mask_head]:
        original = mask_head.loss_and_target

        def record(original=original, **arguments):
            seen.append(torch.cat([result.pos_scores for result in arguments['sampling_results']]))
            return original(**arguments)

        mask_head.loss_and_target = record
    head.loss(*batch())
    assert len(seen) == max(stages, 1) and all(len(scores) and scores.eq(1).all() for scores in seen)


def test_a_head_without_regression_needs_no_box_loss():
    head = build({**bbox_head_cfg(with_reg=False), 'loss_bbox': dict(type='SmoothL1Loss')})
    rois, labels, weights, targets, box_weights = random_rois()
    losses = head.loss(torch.randn(len(rois), NUM_CLASSES), None, rois, labels, weights, targets, box_weights)
    assert losses['loss_rank'] > 0 and 'loss_bbox' not in losses


def in_a_stock_roi_head(key):
    cfg = roi_head_cfg()
    stock = dict(bbox_head='Shared2FCBBoxHead', mask_head='FCNMaskHead')
    for other in stock.keys() - {key}:
        cfg[other] = dict(type=stock[other], num_classes=NUM_CLASSES)
    return {**cfg, 'type': 'StandardRoIHead'}


STOCK_BOX_HEAD = {**bbox_head_cfg('APLoss'), 'type': 'Shared2FCBBoxHead'}


@pytest.mark.parametrize(
    ('cfg', 'words'),
    [
        (bbox_head_cfg(loss_bbox=dict(type='L1Loss')), ['loss_bbox', 'L1Loss', 'GIoULoss']),
        (bbox_head_cfg(reg_decoded_bbox=False), ['reg_decoded_bbox']),
        (bbox_head_cfg(with_cls=False), ['with_cls', 'RankBasedShared2FCBBoxHead']),
        (in_a_stock_roi_head('bbox_head'), ['StandardRoIHead samples RoIs', "use type='RankBasedRoIHead'"]),
        (in_a_stock_roi_head('mask_head'), ['RankBasedFCNMaskHead', "use type='RankBasedRoIHead'"]),
        (bbox_head_cfg('CrossEntropyLoss'), ['loss_cls', 'CrossEntropyLoss', 'ranking loss']),
        (bbox_head_cfg('FocalLoss'), ['loss_cls', 'FocalLoss', 'ranking loss']),
        ({**STOCK_BOX_HEAD, 'loss_cls': dict(type='RSLoss')}, ['Shared2FCBBoxHead', 'IoUs', 'RankBasedShared2FC']),
        ({**STOCK_BOX_HEAD, 'loss_cls': dict(type='BucketedRSLoss')}, ['Shared2FCBBoxHead', 'IoUs', 'RankBased']),
        (roi_head_cfg(bbox_head=STOCK_BOX_HEAD), ['RankBasedRoIHead', 'bbox_head', 'RankBasedShared2FCBBoxHead']),
        (roi_head_cfg(sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25)), ['RandomSampler', '512']),
        (roi_head_cfg(stages=3, sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25)), ['RandomSampler']),
        (roi_head_cfg(sampler=dict(type='OHEMSampler', num=512, pos_fraction=0.25)), ['OHEMSampler', 'sampling']),
        (roi_head_cfg(max_mask_positives=0), ['max_mask_positives', '0']),
        (dict(type='RankBasedFCNMaskHead', logits_std=0), ['logits_std', 'positive', '0']),
        (dict(type='RankBasedCoarseMaskHead', logits_std=0.01), ['logits_std', 'conv_logits']),
        (roi_head_cfg(mask_roi_extractor=None), ['mask_roi_extractor']),
        (roi_head_cfg(mask_head=dict(type='FCNMaskHead', num_classes=3)), ['mask_head', 'RankBasedFCNMaskHead']),
        (roi_head_cfg(loss_mask=dict(type='CrossEntropyLoss')), ['loss_mask', 'CrossEntropyLoss', 'DiceLoss']),
        (roi_head_cfg(loss_mask=dict(type='DiceLoss', activate=False)), ['loss_mask', 'DiceLoss', 'eps=5e-6']),
        (roi_head_cfg(loss_mask=dict(type='GIoULoss')), ['loss_mask', 'GIoULoss', 'use_mask=True']),
        (roi_head_cfg(loss_mask=dict(type='BucketedRSLoss')), ['loss_mask', 'BucketedRSLoss', 'fails with ValueError']),
    ],
)
def test_wrong_settings_are_named_when_built(cfg, words):
    with pytest.raises(ValueError) as caught:
        MODELS.build(cfg)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'DRLoss', 'RSLoss'])
@pytest.mark.parametrize('name', ['DoubleConvFCBBoxHead', 'SABLHead'])
def test_stock_box_heads_with_a_classifier_of_their_own_are_refused(name, loss):
    """They have a channel for background, whatever their loss says."""
    size = dict(num_convs=1, num_fcs=1) if name == 'DoubleConvFCBBoxHead' else dict(cls_out_channels=3)
    with pytest.raises(ValueError, match=rf"{name} cannot train {loss}: .*; use type='RankBased{name}'"):
        MODELS.build(dict(type=name, num_classes=3, loss_cls=dict(type=loss), **size))


def test_ap_losses_train_in_stock_box_heads():
    """They need no IoUs; MMDetection's head then samples and regresses deltas as configured."""
    MODELS.build({**STOCK_BOX_HEAD, 'loss_bbox': dict(type='L1Loss')})
