"""Losses that rank nothing, for studies: against loops over their papers' formulas, and inside a ranking head."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip('mmdet')

from detr_reference import corners
from head_reference import giou
from mmdet.models.dense_heads import ATSSHead
from mmdet.registry import MODELS
from small_anchor_heads import METAS, build_head, features, loss_of, objects_for
from small_query_heads import case, small_head

from bucketed_losses import functional
from bucketed_losses.mmdet.models.losses.comparators import ia_bce_loss, matchability_aware_loss

SIGMOID_QUERIES = ('DeformableDETRHead', 'DINOHead')  # those of the study
FOCAL = dict(type='PointwiseLoss', loss=dict(type='FocalLoss', use_sigmoid=True), iou_targets=False)


def batch():
    """Logits (6, 3), labels with background (3), IoUs, weights with an ignored row."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 2, 1, 3, 1])
    ious = torch.tensor([0.9, 0.0, 0.2, 1.0, 0.0, 0.004], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    return logits, labels, ious, weights


def entries():
    """Logits and IoUs of the entries of :func:`batch` that are not ignored, as plain numbers."""
    logits, labels, ious, weights = batch()
    for i in range(6):
        for c in range(3):
            if weights[i]:
                yield i, c, float(logits[i, c]), float(ious[i]) if c == labels[i] else 0.0


def bce(p, t):
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# Value and derivative by the logit of one entry, with an IoU of 0 for negatives.


def ia_bce(x, iou, alpha=0.25, gamma=2.0):
    p = sigmoid(x)
    if iou:
        t = max(p**alpha * iou ** (1 - alpha), 0.01)
        return bce(p, t), p - t
    return p**gamma * bce(p, 0), p**gamma * (p - gamma * (1 - p) * math.log(1 - p))


def mal(x, iou, gamma=1.5):
    p = sigmoid(x)
    if iou:
        return bce(p, iou**gamma), p - iou**gamma
    return p**gamma * bce(p, 0), p**gamma * p  # the factor is constant


def focal(x, iou, alpha=0.25, gamma=2.0):
    p, sign = sigmoid(x), 1 if iou else -1
    a, p = (alpha, p) if iou else (1 - alpha, 1 - p)
    return -a * (1 - p) ** gamma * math.log(p), sign * a * (1 - p) ** gamma * (gamma * p * math.log(p) + p - 1)


def quality_focal(x, iou, beta=2.0):
    p = sigmoid(x)
    distance = abs(iou - p)
    inner = beta * distance ** (beta - 1) * (1 if p > iou else -1) * p * (1 - p) if distance else 0
    return distance**beta * bce(p, iou), distance**beta * (p - iou) + inner * bce(p, iou)


def varifocal(x, iou, alpha=0.75, gamma=2.0):
    p = sigmoid(x)
    if iou:
        return iou * bce(p, iou), iou * (p - iou)
    return alpha * p**gamma * bce(p, 0), alpha * p**gamma * (p - gamma * (1 - p) * math.log(1 - p))


LOSSES = {
    'FocalLoss': focal,
    'QualityFocalLoss': quality_focal,
    'VarifocalLoss': varifocal,
    'IABCELoss': ia_bce,
    'MatchabilityAwareLoss': mal,
}


@pytest.mark.parametrize('name', LOSSES)
def test_values_and_gradients_are_those_of_a_loop(name):
    logits, labels, ious, weights = batch()
    logits.requires_grad_()
    ious[5] = 0.0  # a positive without overlap stays positive
    loss = MODELS.build(dict(type='PointwiseLoss', loss=dict(type=name, use_sigmoid=True), iou_targets=name[0] != 'F'))
    result = loss(logits, (labels, ious), weight=weights)
    (grad,) = torch.autograd.grad(result['loss_cls'], logits)
    expected, expected_grad = 0.0, torch.zeros_like(logits)
    for i, c, x, iou in entries():
        value, slope = LOSSES[name](x, 1e-15 if i == 5 and iou else iou)
        expected += value / 4  # positives
        expected_grad[i, c] = slope / 4
    assert result.keys() == {'loss_cls'}
    # MMDetection adds float32's epsilon to the number of positives.
    assert result['loss_cls'].item() == pytest.approx(expected, rel=1e-7)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(('name', 'slow'), [('IABCELoss', ia_bce), ('MatchabilityAwareLoss', mal)])
def test_interface_of_mmdetection(name, slow):
    logits, labels, ious, _ = batch()
    targets = torch.zeros(6, 3, dtype=torch.float64)
    positive = labels < 3
    targets[positive, labels[positive]] = ious[positive]
    loss = MODELS.build(dict(type=name, gamma=3.0, loss_weight=2.0))
    each = loss(logits, targets, reduction_override='none')
    pairs = zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = torch.tensor([slow(x, iou, gamma=3.0)[0] for x, iou in pairs], dtype=torch.float64)
    torch.testing.assert_close(each, 2 * expected.view(6, 3))
    half = torch.full((6, 1), 0.5)
    assert loss(logits, targets, half, avg_factor=4) == pytest.approx(float(each.sum()) / 8)
    assert loss(logits, targets, reduction_override='sum') == pytest.approx(float(each.sum()))


@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0])
def test_ia_bce_of_probabilities_that_round_to_0_or_1(gamma):
    values, ious = [-200.0, -200.0, -3.0, 0.0, 1.0, 12.0], [0.0, 0.5, 0.0, 0.0, 0.5, 0.0]
    logits = torch.tensor(values, requires_grad=True)
    loss = ia_bce_loss(logits, torch.tensor(ious), gamma=gamma)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    expected = [ia_bce(x, iou, gamma=gamma) for x, iou in zip(values, ious, strict=True)]
    torch.testing.assert_close(loss.detach(), torch.tensor([value for value, _ in expected]))
    torch.testing.assert_close(gradient, torch.tensor([slope for _, slope in expected]))


def test_exponents_of_the_formulas():
    logits = torch.linspace(-5, 5, 11)
    ones = torch.ones(11)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, ones, reduction='none')
    torch.testing.assert_close(matchability_aware_loss(logits, ones, gamma=7.0), cross_entropy)
    torch.testing.assert_close(ia_bce_loss(logits, ones, alpha=0.0), cross_entropy)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='IABCELoss', alpha=1.5), r'alpha must lie in \[0, 1\], got 1.5'),
        (dict(type='IABCELoss', gamma=-1), 'gamma must be 0 or more, got -1'),
        (dict(type='IABCELoss', use_sigmoid=False), 'use_sigmoid must be True'),
        (dict(type='MatchabilityAwareLoss', gamma=0), 'gamma must be above 0, got 0'),
        (dict(type='MatchabilityAwareLoss', use_sigmoid=False), 'use_sigmoid must be True'),
    ],
)
def test_wrong_arguments_are_named(cfg, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


def test_a_weight_for_each_class_is_refused():
    logits, labels, ious, _ = batch()
    with pytest.raises(ValueError, match=r'weight must have the shape \(6,\), got \(6, 3\)'):
        MODELS.build(FOCAL)(logits, (labels, ious), weight=torch.ones(6, 3))


# Inside a ranking head


def stock_twin(head):
    """MMDetection's ATSSHead with the weights of a ranking head; its centerness is not used."""
    settings = dict(norm_cfg=dict(type='GN', num_groups=2), stacked_convs=1)
    stock = ATSSHead(
        num_classes=head.num_classes,
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, ratios=[1.0], scales_per_octave=3, strides=[8, 16]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        reg_decoded_bbox=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        train_cfg=head.train_cfg,
        **settings,
    )
    stock.load_state_dict(head.state_dict(), strict=False)
    return stock


def test_focal_loss_in_a_ranking_head_is_that_of_the_stock_head():
    head = build_head(FOCAL, classifier_prior=0.01)
    stock = stock_twin(head)
    (bias,) = [bias for name, bias in head.named_parameters() if name == 'atss_cls.bias']
    assert bias.detach().mean() == pytest.approx(-math.log(99))
    losses, of_stock = loss_of(head), stock.loss_by_feat(*stock(features()), objects_for(head), METAS)
    assert losses['loss_cls'].item() == pytest.approx(sum(of_stock['loss_cls']).item(), rel=1e-5)


@pytest.mark.parametrize('name', LOSSES)
def test_every_parameter_is_trained(name):
    loss = dict(type='PointwiseLoss', loss=dict(type=name, use_sigmoid=True), iou_targets=name != 'FocalLoss')
    head = build_head(loss, classifier_prior=0.01)
    losses = loss_of(head)
    assert losses.keys() == {'loss_cls', 'loss_bbox'}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_box_losses_are_balanced_if_wanted():
    plain, balanced = (build_head({**FOCAL, 'self_balancing': wanted}) for wanted in (False, True))
    before, after = ({name: value.item() for name, value in loss_of(head).items()} for head in (plain, balanced))
    assert before['loss_cls'] == after['loss_cls'] == pytest.approx(after['loss_bbox'], rel=1e-5)
    assert before['loss_bbox'] != pytest.approx(after['loss_bbox'], rel=1e-2)


def test_no_positives_leave_the_loss_of_the_negatives():
    empty = [type(one)(bboxes=one.bboxes[:0], labels=one.labels[:0]) for one in objects_for(build_head(FOCAL))]
    losses = loss_of(build_head(FOCAL), empty)
    assert losses['loss_cls'] > 0 and losses['loss_bbox'] == 0


@pytest.mark.parametrize(('rs', 'ap'), [('rs_loss', 'ap_loss'), ('bucketed_rs_loss', 'bucketed_ap_loss')])
def test_rs_loss_with_equal_ious_is_ap_loss_with_its_step(rs, ap):
    """The configs of the ablation use this: RS Loss with all IoUs 1 is AP Loss with delta 0.5 and self-balancing."""
    logits, labels, _, _ = batch()
    targets = torch.nn.functional.one_hot(labels, 4)[:, :3].double()
    results = []
    for name in (rs, ap):
        leaf = logits.clone().requires_grad_()
        parts = getattr(functional, name)(leaf, targets, 0.5)
        parts = parts if isinstance(parts, tuple) else (parts, torch.zeros(()))
        results.append((parts[0].detach(), *torch.autograd.grad(sum(parts), leaf)))
        assert float(parts[1]) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize('stock', SIGMOID_QUERIES)
def test_focal_loss_in_a_ranking_query_head_is_the_stock_head(stock):
    focal = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0)
    carried = dict(type='PointwiseLoss', loss=focal, iou_targets=False)
    heads = (
        small_head(stock, '', loss_cls=carried, classifier_prior=0.01),
        small_head(stock, '', ranking=False, loss_cls=focal, sync_cls_avg_factor=True),
    )
    given = [case(head, stock) for head in heads]
    losses = [head.loss_by_feat(*one.arguments, **one.keywords) for head, one in zip(heads, given, strict=True)]
    names = [name for name in losses[1] if not name.endswith('dn_loss_cls')]  # only these have fillers as background
    assert losses[0].keys() == losses[1].keys() and len(names) > 5
    for name in names:
        torch.testing.assert_close(losses[0][name], losses[1][name].squeeze(), rtol=1e-5, atol=1e-6)
    gradients = [
        torch.autograd.grad(sum(part[name] for name in names), one.leaves, allow_unused=True, materialize_grads=True)
        for part, one in zip(losses, given, strict=True)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', ['IABCELoss', 'MatchabilityAwareLoss'])
@pytest.mark.parametrize('stock', SIGMOID_QUERIES)
def test_rivals_in_a_query_head_are_computed_with_the_ious_of_matched_boxes(stock, name):
    """The last layer, with loops over its queries and classes."""
    head = small_head(stock, '', loss_cls=dict(type='PointwiseLoss', loss=dict(type=name, loss_weight=2.0)))
    given = case(head, stock)
    losses = head.loss_by_feat(*given.arguments, **given.keywords)
    expected, positives = 0.0, 0
    for query in given.sets['']:
        for c, logit in enumerate(query.scores.tolist()):
            iou = 0.0
            if c == query.label:
                iou = max(float(giou(corners(query.box, query.size), corners(query.target, query.size))[1]), 1e-15)
                positives += 1
            expected += LOSSES[name](logit, iou)[0]
    assert positives == 4
    assert losses['loss_cls'].item() == pytest.approx(2 * expected / positives, rel=1e-5)
