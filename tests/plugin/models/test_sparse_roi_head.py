"""Sparse R-CNN and QueryInst trained with a ranking loss: against loops, as whole detectors, and at inference."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import losses_after_backward
from detr_reference import best_assignment, slow_query_losses
from mmengine.config import Config
from mmengine.structures import InstanceData
from small_query_heads import (
    METAS,
    NUM_CLASSES,
    SHIFT,
    SIZES,
    as_queries,
    batch,
    build,
    normalised,
    nothing,
    one_of_two,
    same_predictions,
    truth,
)
from small_sparse_roi_heads import MASK_SIZE, STAGE_WEIGHTS, STOCK, inputs, roi_head_cfg, small_config, small_roi_head
from swap_survey import configs

from bucketed_losses.core.devices import as_on_an_accelerator
from bucketed_losses.mmdet.models.losses import RankingLoss
from bucketed_losses.mmdet.swap import swap_loss

LOSSES = ('APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss')
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0)
EVERY_DETECTOR = pytest.mark.parametrize('detector', STOCK)


def losses_of(head, data):
    return {name: value for name, value in head.loss(*data).items() if 'loss' in name}


def record_stages(head):
    """The logits, decoded boxes and mask logits of each stage, as the stock head computes them."""
    stages = []
    box_forward, mask_forward = head._bbox_forward, head._mask_forward

    def boxes(*args):
        results = box_forward(*args)
        stages.append([results['cls_score'], results['decoded_bboxes'].view(2, -1, 4)])
        results['decoded_bboxes'] = stages[-1][1].flatten(0, 1)
        return results

    def masks(*args):
        results = mask_forward(*args)
        stages[-1].append(results['mask_preds'])
        return results

    head._bbox_forward, head._mask_forward = boxes, masks
    return stages


def centred(boxes, size):
    """cx cy w h in fractions of the image, of corners in pixels."""
    x1, y1, x2, y2 = (boxes / torch.tensor([*size, *size])).unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], -1)


def matched(logits, boxes, objects):
    """One query for each object by trying all assignments, and for each positive: image, query, object."""
    queries, positives = [], []
    for image, (own, size) in enumerate(zip(objects, SIZES, strict=True)):
        targets, labels, predicted = normalised(own, size), own.labels.tolist(), centred(boxes[image], size)
        with torch.no_grad():
            order = best_assignment(logits[image] + SHIFT, predicted, labels, targets, size, 4.0, l1_of_corners=True)
        pairs = {q: g for g, q in enumerate(order)}
        queries += as_queries(logits[image], predicted, pairs, labels, targets, size, ignored=set())
        positives += [(image, q, pairs[q]) for q in sorted(pairs)]
    return queries, positives


def slow_mask_loss(mask_preds, positives, logits, boxes, samples):
    """``sum_i p_i l_i / sum_i p_i`` of Dice losses with the weight 8, pixel by pixel of the target."""
    each, scores = [], []
    for i, (image, q, g) in enumerate(positives):
        instances = samples[image].gt_instances
        size = (MASK_SIZE, MASK_SIZE)
        box = boxes[image, q].detach()[None].clone()
        width, height = SIZES[image]
        box[:, ::2].clamp_(0, width), box[:, 1::2].clamp_(0, height)
        target = instances.masks.crop_and_resize(box.numpy(), size, torch.tensor([g]), 'cpu').to_ndarray()[0]
        probabilities = mask_preds[i, instances.labels[g]].sigmoid().flatten().tolist()
        pairs = list(zip(probabilities, target.flatten().tolist(), strict=True))
        overlap = sum(p * t for p, t in pairs)
        each.append(8 * (1 - 2 * overlap / (sum(p * p for p, _ in pairs) + sum(t * t for _, t in pairs) + 2e-5)))
        scores.append(max(logits[image, q].sigmoid().tolist()))
    return sum(p * loss for p, loss in zip(scores, each, strict=True)) / sum(scores)


@pytest.mark.parametrize('accelerator', [False, True])
@pytest.mark.parametrize('objects', [truth, one_of_two])
@pytest.mark.parametrize('loss', LOSSES)
def test_losses_equal_loops(loss, objects, accelerator):
    """Matching too, by trying all assignments. Values, and the gradients of all logits and boxes."""
    head = small_roi_head(loss)
    stages, data = record_stages(head), inputs(objects())
    with as_on_an_accelerator() if accelerator else torch.enable_grad():
        losses = losses_of(head, data)
    slow, total = {}, 0
    for stage, (weight, (logits, boxes, mask_preds)) in enumerate(zip(STAGE_WEIGHTS, stages, strict=True)):
        queries, positives = matched(logits, boxes, objects())
        values, value = slow_query_losses(loss, queries, class_weight=2.0, l1_of_corners=True)
        mask = slow_mask_loss(mask_preds, positives, logits, boxes, data[2])
        values['loss_mask'] = values['loss_rank'] + values['loss_sort'] if 'RS' in loss else mask
        slow |= {f's{stage}.{name}': weight * number for name, number in values.items()}
        total = total + weight * value
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(slow, rel=1e-4, abs=1e-5)
    leaves = [leaf for logits, boxes, _ in stages for leaf in (logits, boxes)]
    fast = sum(value for name, value in losses.items() if 'mask' not in name)
    expected = torch.autograd.grad(total, leaves, retain_graph=True)
    for mine, theirs in zip(torch.autograd.grad(fast, leaves), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_masks_are_weighted_by_scores_and_few_positives_are_drawn():
    """The gradient shows the weights also when the value is balanced."""
    head = small_roi_head(max_mask_positives=2)
    stages, data = record_stages(head), inputs()
    given = []
    for mask_head in head.mask_head:
        original = mask_head.loss_and_target
        mask_head.loss_and_target = lambda original=original, **kwargs: given.append(kwargs) or original(**kwargs)
    losses = losses_of(head, data)
    for stage, (kwargs, (logits, _, mask_preds)) in enumerate(zip(given, stages, strict=True)):
        scores, slopes = [], []
        (grad,) = torch.autograd.grad(losses[f's{stage}.loss_mask'], mask_preds, retain_graph=True)
        targets = head.mask_head[stage].get_targets(
            kwargs['sampling_results'], kwargs['batch_gt_instances'], kwargs['rcnn_train_cfg']
        )
        labels = torch.cat([image.pos_gt_labels for image in kwargs['sampling_results']])
        assert len(mask_preds) == len(labels) == 2
        for image, results in enumerate(kwargs['sampling_results']):
            scores += [max(logits[image, q].sigmoid().tolist()) for q in results.pos_inds]
        values = []
        for i, (label, score) in enumerate(zip(labels, scores, strict=True)):
            own = mask_preds[i, label].detach().requires_grad_()
            p = own.sigmoid()
            value = 8 * (1 - 2 * (p * targets[i]).sum() / ((p * p).sum() + (targets[i] ** 2).sum() + 2e-5))
            slopes.append(torch.autograd.grad(value, own)[0] * score / sum(scores))
            values.append(value.item() * score / sum(scores))
        factor = losses[f's{stage}.loss_mask'].item() / sum(values)
        for i, label in enumerate(labels):
            torch.testing.assert_close(grad[i, label], factor * slopes[i], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize('loss', [*LOSSES, 'DRLoss'])
def test_every_parameter_gets_a_gradient_with_and_without_objects(loss):
    for objects in (truth(), nothing()):
        head = small_roi_head(loss)
        losses = losses_of(head, inputs(objects))
        sum(losses.values()).backward()
        assert not [name for name, p in head.named_parameters() if p.grad is None]
        if len(objects[0]):
            assert all(value > 0 for value in losses.values()), losses
        elif loss != 'DRLoss':
            assert not any(losses.values()) and not any(p.grad.any() for p in head.parameters())
        assert all(buffer.isfinite().all() for buffer in head.buffers())


@pytest.mark.parametrize('loss', ['BucketedRSLoss', 'APLoss'])
def test_predictions_that_are_not_finite_make_the_loss_nan(loss):
    """Weights that are NaN, layer by layer; and the features of one image."""
    head = small_roi_head(loss)
    for name, parameter in head.named_parameters():
        if parameter.dim() > 1:
            before = parameter.detach().clone()
            parameter.data.fill_(torch.nan)
            assert sum(losses_of(head, inputs()).values()).isnan(), name
            parameter.data.copy_(before)
    assert sum(losses_of(head, inputs()).values()).isfinite()
    x, proposals, samples = inputs()
    x[0][1] = torch.nan
    assert sum(losses_of(head, (x, proposals, samples)).values()).isnan()


def test_bfloat16_autocast_keeps_the_losses_in_float32():
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = losses_of(small_roi_head(), inputs())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


@pytest.mark.stack
def test_matching_in_float16_has_finite_costs():
    """In float16, the class cost of a logit of 14 would be infinite, and the assigner would raise an error."""
    head = small_roi_head()
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, NUM_CLASSES, generator=generator)
    scores[1, 2], scores[0, 0] = 14.0, -20.0
    bboxes = 50 * torch.rand(6, 4, generator=generator)
    bboxes[:, 2:] += bboxes[:, :2] + 5
    assigned = [
        head.bbox_assigner[0].assign(
            InstanceData(scores=scores.half().to(dtype), bboxes=bboxes.half().to(dtype)), truth()[0], METAS[0]
        )
        for dtype in (torch.half, torch.float)
    ]
    assert (assigned[1].gt_inds > 0).any() and torch.equal(assigned[0].gt_inds, assigned[1].gt_inds)


@pytest.mark.parametrize('scope', ['image', 'class'])
def test_scopes(scope):
    """With 'image', the mean of the images alone; every scope has the same values in one call and stage by stage."""
    loss = dict(type='BucketedRSLoss', loss_weight=2.0, scope=scope)
    values, scoped = [], small_roi_head(box=dict(loss_cls=loss))
    for accelerator in (False, True):
        with as_on_an_accelerator() if accelerator else torch.enable_grad():
            values.append(losses_of(scoped, inputs()))
    torch.testing.assert_close(values[0], values[1])
    if scope == 'image':
        alone, of_batch = [], small_roi_head()
        of_batch.load_state_dict(scoped.state_dict())
        for image in (slice(0, 1), slice(1, 2)):
            x, proposals, samples = inputs()
            alone.append(losses_of(of_batch, ((x[0][image],), proposals[image], samples[image])))
        ranking = [name for name in alone[0] if 'rank' in name or 'sort' in name]
        assert len(ranking) == 2 * len(STAGE_WEIGHTS)
        for name in ranking:
            torch.testing.assert_close(values[0][name], (alone[0][name] + alone[1][name]) / 2)


def test_classifiers_start_without_a_prior():
    for prior, bias in ((0.5, 0.0), (0.01, -4.595)):
        head = small_roi_head(box=dict(classifier_prior=prior))
        for box_head, assigner in zip(head.bbox_head, head.bbox_assigner, strict=True):
            assert box_head.fc_cls.bias.mean().item() == pytest.approx(bias, abs=1e-3)
            assert assigner.shift == pytest.approx(-4.595 - bias, abs=1e-3)


def test_heads_and_losses_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"RankBasedDIIHead: loss_cls must be a ranking loss.*type='DIIHead'"):
        small_roi_head(box=dict(loss_cls=FOCAL))
    with pytest.raises(ValueError, match='RankBasedDIIHead: aLRPLoss is a box loss too'):
        small_roi_head('aLRPLoss')
    for loss in ('BucketedRSLoss', 'APLoss'):
        with pytest.raises(ValueError, match=rf"DIIHead cannot train {loss}.*use type='RankBasedDIIHead'"):
            small_roi_head(loss, box=dict(type='DIIHead'))
    with pytest.raises(ValueError, match=r'RankBasedSparseRoIHead: bbox_head must be .*RankBasedDIIHead, got DIIHead'):
        small_roi_head(box=dict(type='DIIHead', loss_cls=FOCAL))
    different = roi_head_cfg('RSLoss')['bbox_head']
    different[1]['loss_cls'] = dict(type='BucketedRSLoss')
    with pytest.raises(ValueError, match=r'loss_cls must be the same in all stages.*use stage_loss_weights'):
        small_roi_head(bbox_head=different)
    masks = {**roi_head_cfg('RSLoss')['mask_head'][0], 'type': 'DynamicMaskHead'}
    with pytest.raises(ValueError, match=r'mask_head must be .*RankBasedDynamicMaskHead, got DynamicMaskHead'):
        small_roi_head(mask_head=masks)


# ---------------------------------------------------------------------------------------------------------------------
# Whole detectors, from stock configs


@pytest.mark.parametrize('file', configs('sparse_rcnn', 'queryinst'), ids=lambda file: file.stem)
def test_every_stock_config_is_converted(file):
    stock = Config.fromfile(file)
    swapped = swap_loss(stock).cfg
    model, before = swapped.model, stock.model
    assert model.roi_head.type == 'RankBasedSparseRoIHead' and model.rpn_head == before.rpn_head
    assert swapped.optim_wrapper == stock.optim_wrapper
    for head in model.roi_head.bbox_head:
        assert head.type == 'RankBasedDIIHead' and head.loss_cls == dict(type='BucketedRSLoss', loss_weight=2.0)
    assert all(head.type == 'RankBasedDynamicMaskHead' for head in model.roi_head.get('mask_head', []))
    for stage, old in zip(model.train_cfg.rcnn, before.train_cfg.rcnn, strict=True):
        costs, old_costs = stage.assigner.match_costs, old.assigner.match_costs
        assert costs == [dict(type='FocalLossCost', weight=4.0), *old_costs[1:]]


@pytest.mark.medium
@EVERY_DETECTOR
def test_a_swapped_detector_trains_every_parameter(detector):
    model = build(swap_loss(small_config(detector)).cfg.model).train()
    calls = []
    for module in model.modules():
        if isinstance(module, RankingLoss):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    with as_on_an_accelerator():
        losses = losses_after_backward(model, batch(model))
    assert len(calls) == 1, 'all stages are ranked in one call'
    parts = ['loss_rank', 'loss_sort', 'loss_bbox', 'loss_iou', *['loss_mask'] * (detector == 'QueryInst')]
    assert set(losses) == {f's{stage}.{part}' for stage in range(2) for part in parts}
    assert all(value > 0 for value in losses.values())
    model.zero_grad()
    assert not any(losses_after_backward(model, batch(model, (0, 0))).values())


@pytest.mark.medium
@EVERY_DETECTOR
def test_inference_is_that_of_the_stock_head(detector):
    cfg = small_config(detector)
    ranked, plain = build(swap_loss(cfg).cfg.model).eval(), build(cfg.model).eval()
    for head in ranked.roi_head.bbox_head:  # boxes overlap with the image, as FCNMaskHead needs it
        head.fc_reg.weight.data *= 0.1
    plain.load_state_dict(ranked.state_dict())
    data = batch(plain, training=False)
    with torch.no_grad():
        results = [model(**copy.deepcopy(data), mode='predict') for model in (ranked, plain)]
    assert same_predictions(*results)
