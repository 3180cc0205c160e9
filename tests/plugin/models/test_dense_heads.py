"""The dense heads against a slow computation from the definitions, and in the situations training meets."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import slow_losses

pytest.importorskip('mmdet')

from mmdet.models.dense_heads import AnchorHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from small_anchor_heads import (
    EACH,
    HEAD_TYPES,
    HEADS,
    METAS,
    NAMES,
    OBJECTS,
    build_head,
    features,
    instances,
    loss_of,
    objects_for,
    predictions_of,
)

import bucketed_losses.mmdet  # noqa: F401  (registers the head)


@EACH
@HEADS
def test_losses_equal_a_slow_computation(head_type, name):
    head = build_head(name, head_type)
    cls_scores, bbox_preds = head(features(4 if head_type == 'RankBasedRetinaHead' else 8))
    generator = torch.Generator().manual_seed(2)
    cls_scores = [torch.randn(x.shape, generator=generator).requires_grad_() for x in cls_scores]
    bbox_preds = [torch.randn(x.shape, generator=generator).requires_grad_() for x in bbox_preds]
    losses = head.loss_by_feat(cls_scores, bbox_preds, objects_for(head), METAS)
    grads = torch.autograd.grad(sum(losses.values()), cls_scores + bbox_preds)

    expected, total = slow_losses(name, predictions_of(head, cls_scores, bbox_preds), box_weight=2.0)
    factor = 1.0
    if head_type == 'RankBasedRPNHead':
        factor = 0.2
        expected = {key.replace('loss_', 'loss_rpn_'): factor * value for key, value in expected.items()}
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert value > 0
        assert losses[key].item() == pytest.approx(value, abs=1e-5)
    wanted = torch.autograd.grad(factor * total, cls_scores + bbox_preds, materialize_grads=True)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@EACH
@HEADS
def test_every_parameter_gets_a_gradient(head_type, name):
    """Also what DDP needs with find_unused_parameters=False."""
    head = build_head(name, head_type)
    sum(loss_of(head).values()).backward()
    missing = [key for key, parameter in head.named_parameters() if parameter.grad is None]
    assert not missing
    assert not hasattr(head, 'atss_centerness') and not hasattr(head, 'loss_centerness')
    assert all('centerness' not in key for key in head.state_dict())


@EACH
@HEADS
@pytest.mark.parametrize('crowd', [False, True], ids=['no objects', 'all crowd'])
def test_without_positives_losses_are_zero_and_connected(head_type, name, crowd):
    head = build_head(name, head_type)
    ignore = [InstanceData(bboxes=objects.bboxes) for objects in OBJECTS] if crowd else None
    losses = loss_of(head, [instances([], [])] * 2, ignore)
    assert losses and all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    for parameter in head.parameters():
        assert parameter.grad is not None and parameter.grad.eq(0).all()


@HEADS
def test_one_image_without_objects(head_type):
    head = build_head(head_type=head_type)
    losses = loss_of(head, [objects_for(head)[0], instances([], [])])
    assert all(math.isfinite(value.item()) and value > 0 for value in losses.values())


def test_paa_scores_no_rows_of_an_image_without_positives(monkeypatch):
    """mmcv's focal loss on a GPU fails without rows; so here does the one on the CPU."""
    head = build_head(head_type='RankBasedPAAHead')
    forward = head.loss_score.forward

    def needs_rows(pred, *args, **kwargs):
        assert len(pred)
        return forward(pred, *args, **kwargs)

    monkeypatch.setattr(head.loss_score, 'forward', needs_rows)
    losses = loss_of(head, [OBJECTS[0], instances([], [])])
    assert all(math.isfinite(value.item()) and value > 0 for value in losses.values())


@HEADS
def test_all_images_are_ranked_together(head_type):
    """Raising all logits of one image changes the loss of the batch, but not that of each image alone."""
    head = build_head(head_type=head_type)
    cls_scores, bbox_preds = ([x.detach() for x in levels] for levels in head(features()))
    raised = [x + torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1) for x in cls_scores]

    def ranking(scores, images):
        start, end = images
        losses = head.loss_by_feat(
            [x[start:end] for x in scores],
            [x[start:end] for x in bbox_preds],
            objects_for(head)[start:end],
            METAS[start:end],
        )
        return losses['loss_rpn_rank' if head_type == 'RankBasedRPNHead' else 'loss_rank'].item()

    if head_type != 'RankBasedPAAHead':  # raised logits change PAA's scores, and with them the assignment
        for image in ((0, 1), (1, 2)):
            assert ranking(raised, image) == pytest.approx(ranking(cls_scores, image), rel=1e-5)
    assert ranking(raised, (0, 2)) != pytest.approx(ranking(cls_scores, (0, 2)), rel=1e-4)


@HEADS
def test_bias_starts_at_zero_and_score_threshold_keeps_fresh_detections(head_type):
    head = build_head(head_type=head_type)
    name = {'RankBasedRetinaHead': 'retina_cls', 'RankBasedRPNHead': 'rpn_cls'}.get(head_type, 'atss_cls')
    assert getattr(head, name).bias.eq(0).all()
    assert [bias.data_ptr() for bias in head.classifier_biases()] == [getattr(head, name).bias.data_ptr()]
    results = head.predict_by_feat(*head(features()), batch_img_metas=METAS)
    assert [len(result) for result in results] == [10, 10]
    assert all((result.scores > 0.4).all() and (result.labels < head.num_classes).all() for result in results)


def test_paa_keeps_score_voting_and_the_class_scores():
    """Detections are those of stock PAA whose IoU branch is certain, scored by the class alone instead of its root."""
    head, plain = (build_head(head_type='RankBasedPAAHead', score_voting=voting) for voting in (True, False))
    stock = build_head(dict(type='FocalLoss', use_sigmoid=True), 'PAAHead', score_voting=False)
    generator = torch.Generator().manual_seed(3)
    cls_scores, bbox_preds = ([torch.randn(x.shape, generator=generator) for x in level] for level in head(features()))
    certain = [torch.full_like(x[:, ::4], 100.0) for x in bbox_preds]
    voted, detected, expected = (
        h.predict_by_feat(cls_scores, bbox_preds, *extra, batch_img_metas=METAS)
        for h, extra in ((head, ()), (plain, ()), (stock, (certain,)))
    )
    for got, want in zip(detected, expected, strict=True):
        torch.testing.assert_close(got.scores, want.scores**2)
        torch.testing.assert_close(got.bboxes, want.bboxes)
    assert not torch.equal(voted[0].bboxes[: len(detected[0])], detected[0].bboxes)
    inside = torch.cat([result.scores for result in voted])
    assert ((inside > 0) & (inside < 1)).all()


@HEADS
def test_images_smaller_than_a_stride(head_type):
    """One location per level, fewer priors than ``nms_pre``, the assigner and PAA's mixture model ask for."""
    head = build_head(head_type=head_type)
    small = [{**METAS[0], 'img_shape': (8, 8), 'pad_shape': (8, 8), 'batch_input_shape': (8, 8)}] * 2
    maps = head([torch.randn(2, 8, 1, 1) for _ in range(2)])
    results = head.predict_by_feat(*maps, batch_img_metas=small)
    assert all(0 < len(result) <= 10 for result in results)
    losses = head.loss_by_feat(*maps, [instances([[1, 1, 7, 7]], [0]), instances([[0, 0, 8, 8]], [0])], small)
    assert all(value.isfinite() for value in losses.values())


@HEADS
def test_detections_by_position_and_by_name(head_type):
    """MMDetection's own tests call ``predict_by_feat`` by position."""
    head = build_head(head_type=head_type)
    outputs = head(features())
    by_name = head.predict_by_feat(*outputs, batch_img_metas=METAS, cfg=head.test_cfg, rescale=True)
    by_position = head.predict_by_feat(*outputs, None, METAS, head.test_cfg, True, True)
    for one, other in zip(by_name, by_position, strict=True):
        assert len(one) == 10
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(one[key], other[key])


def test_paa_does_not_depend_on_how_mmdetection_combines_scores(monkeypatch):
    from mmdet.models.dense_heads import PAAHead

    head = build_head(head_type='RankBasedPAAHead')
    generator = torch.Generator().manual_seed(3)
    outputs = [[torch.randn(x.shape, generator=generator) for x in level] for level in head(features())]
    expected = head.predict_by_feat(*outputs, batch_img_metas=METAS)

    def another_formula(*args, **kwargs):
        raise AssertionError('MMDetection combines scores with IoUs here')

    for name in ('_predict_by_feat_single', '_bbox_post_process'):
        monkeypatch.setattr(PAAHead, name, another_formula)
    for one, other in zip(expected, head.predict_by_feat(*outputs, batch_img_metas=METAS), strict=True):
        assert torch.equal(one.scores, other.scores) and torch.equal(one.bboxes, other.bboxes)
    # The scores are those of the classes, bit for bit.
    scores = torch.cat([level.sigmoid().flatten() for level in outputs[0]])
    assert all(torch.isin(result.scores, scores).all() for result in expected)


@HEADS
def test_bfloat16_autocast_keeps_the_loss_in_float32(head_type):
    head = build_head(head_type=head_type)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = loss_of(head)
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    if head_type != 'RankBasedPAAHead':  # rounding may change PAA's assignment
        for key, value in loss_of(head).items():
            assert losses[key].item() == pytest.approx(value.item(), rel=0.05)


def test_paa_splits_scores_that_are_large_and_nearly_equal():
    """As those of a fresh head with many classes may be; in float32 scikit-learn's mixture fails on them."""
    head = build_head(head_type='RankBasedPAAHead', num_classes=1203, score_prior=0.5)
    cls_scores, _ = head(features())
    anchors, flags = head.get_anchors([x.shape[-2:] for x in cls_scores], METAS, device='cpu')
    labels, weights, targets, box_weights, pos_inds, pos_gt = (
        part[0] for part in head.get_targets(anchors, flags, OBJECTS, METAS)
    )
    num = len(labels)
    (scores,) = head.get_pos_loss(
        anchors[0], torch.zeros(num, 1203), torch.zeros(num, 4), labels, weights, targets, box_weights, pos_inds
    )
    assert scores.dtype == torch.float64 and scores.min() > 100
    noise = torch.randn(len(scores), generator=torch.Generator().manual_seed(0)).double()
    equal = scores.mean() + 1e-6 * noise
    split = head.paa_reassign(equal, labels, weights, box_weights, pos_inds, pos_gt, anchors[0])
    assert split[-1] > 0
    with pytest.raises(ValueError, match='mixture model failed'):
        head.paa_reassign(equal.float(), labels, weights, box_weights, pos_inds, pos_gt, anchors[0])


@pytest.mark.parametrize('score_prior', [0.0, 1.0, -0.1])
def test_paa_prior_outside_0_1_is_refused(score_prior):
    with pytest.raises(ValueError, match='score_prior'):
        build_head(head_type='RankBasedPAAHead', score_prior=score_prior)


def test_rpn_weight_scales_every_loss():
    light, heavy = (loss_of(build_head(head_type='RankBasedRPNHead', head_weight=w)) for w in (0.2, 1.0))
    assert set(light) == {'loss_rpn_rank', 'loss_rpn_sort', 'loss_rpn_bbox'}
    for key, value in light.items():
        assert value.item() == pytest.approx(0.2 * heavy[key].item())


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(name='FocalLoss'), ['loss_cls', 'FocalLoss', 'ranking loss']),
        (dict(reg_decoded_bbox=False), ['reg_decoded_bbox', 'True']),
        (dict(loss_bbox=dict(type='L1Loss')), ['loss_bbox', 'L1Loss', 'GIoULoss']),
        (dict(sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5)), ['RandomSampler', 'PseudoSampler']),
        (dict(name=dict(type='RSLoss', use_sigmoid=False)), ['use_sigmoid', 'background']),
    ],
)
@HEADS
def test_wrong_settings_are_named_when_built(head_type, kwargs, words):
    with pytest.raises(ValueError) as caught:
        build_head(head_type=head_type, **kwargs)
    for word in words if 'use_sigmoid' in words else [head_type, *words]:  # the loss does not know its head
        assert word in str(caught.value)


@HEADS
def test_anchors_and_coders_of_box_types(head_type):
    if head_type in ('RankBasedATSSHead', 'RankBasedPAAHead'):
        pytest.skip("MMDetection's own head takes tensors alone")
    expected = loss_of(build_head(head_type=head_type))
    head = build_head(head_type=head_type)
    head.prior_generator.use_box_type = head.bbox_coder.use_box_type = True
    for name, value in loss_of(head).items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected[name])), name


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('head_type', HEAD_TYPES)
def test_stock_dense_heads_are_refused_when_built(head_type, name):
    """They call their loss level by level and give it no IoUs."""
    stock = head_type.removeprefix('RankBased')
    with pytest.raises(ValueError) as caught:
        build_head(name, stock)
    for word in (stock, name, f"use type='{head_type}'"):
        assert word in str(caught.value)


def test_stock_dense_heads_without_a_ranking_form_are_refused_with_the_reason():
    with pytest.raises(ValueError, match=r'FreeAnchorRetinaHead cannot train BucketedRSLoss: it weights.*RetinaHead'):
        MODELS.build(
            dict(type='FreeAnchorRetinaHead', num_classes=3, in_channels=8, loss_cls=dict(type='BucketedRSLoss'))
        )


@pytest.mark.parametrize(
    ('head', 'instead', 'settings'),
    [
        ('ATSSVLFusionHead', 'ATSSHead', dict(num_classes=3, in_channels=8)),
        ('GroundingDINOHead', 'DINOHead', dict(num_classes=3, contrastive_cfg=dict(max_text_len=256))),
    ],
)
def test_heads_with_a_logit_for_each_word_are_refused_when_built(head, instead, settings):
    with pytest.raises(ValueError, match=rf'{head} cannot train BucketedRSLoss: .*text.*{instead}'):
        MODELS.build(dict(type=head, loss_cls=dict(type='BucketedRSLoss'), **settings))


def test_a_background_channel_is_named_when_built():
    class OwnHead(AnchorHead):
        """A user's head that forgot use_sigmoid, so that it has num_classes + 1 channels."""

    with pytest.raises(ValueError, match=r'OwnHead: RSLoss needs .* num_classes=3 channels, got 4.*use_sigmoid=True'):
        OwnHead(3, 8, loss_cls=dict(type='RSLoss'))
    OwnHead(3, 8, loss_cls=dict(type='RSLoss', use_sigmoid=True))
