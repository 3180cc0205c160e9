"""RoI heads of HTC, SCNet, Mask Scoring R-CNN, PointRend, Grid R-CNN and others: losses against slow computations."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import giou, slow_losses

pytest.importorskip('mmdet')

from mmengine.structures import InstanceData
from small_roi_heads import NUM_CLASSES, SIZE, batch, bbox_head_cfg, build, predictions_of_rois, random_rois
from small_roi_variants import OTHER_LOSSES, VARIANTS, build_variant, segmented_batch

EACH = pytest.mark.parametrize('name', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
EVERY = pytest.mark.parametrize('variant', VARIANTS)


def losses_of(head, data):
    return {key: value for key, value in head.loss(*data).items() if 'loss' in key}


def ranking(losses, *stages):
    """The sum of the ranking losses of stages."""
    return sum(losses.get(f'{stage}{part}', 0) for stage in stages for part in ('loss_rank', 'loss_sort')).detach()


@EACH
@EVERY
def test_every_parameter_gets_a_gradient(variant, name):
    head = build_variant(variant, name)
    losses = losses_of(head, segmented_batch())
    assert any('loss_rank' in key for key in losses) and any('loss_sort' in key for key in losses) == ('RS' in name)
    assert all(math.isfinite(value.item()) and value > 0 for value in losses.values()), losses
    sum(losses.values()).backward()
    assert not [key for key, p in head.named_parameters() if p.grad is None]


@EVERY
@pytest.mark.parametrize('name', ['aLRPLoss', 'DRLoss'])
def test_other_losses(variant, name):
    head = build_variant(variant, name)
    losses = losses_of(head, segmented_batch())
    assert all(math.isfinite(value.item()) for value in losses.values()), losses
    sum(losses.values()).backward()
    assert not [key for key, p in head.named_parameters() if p.grad is None]


@EACH
@EVERY
def test_a_batch_without_objects(variant, name):
    head = build_variant(variant, name)
    losses = losses_of(head, segmented_batch(objects_per_image=(0, 0)))
    assert all(value == 0 for key, value in losses.items() if key not in OTHER_LOSSES), losses
    sum(losses.values()).backward()
    assert not [key for key, p in head.named_parameters() if p.grad is None]


@EVERY
def test_predictions(variant):
    head = build_variant(variant, 'BucketedRSLoss').eval()
    with torch.no_grad():
        results = head.predict(*segmented_batch())
    assert len(results) == (1 if variant == 'trident' else 2)  # TridentNet merges its branches
    for result in results:
        assert 0 < len(result) <= 10 and (result.labels < NUM_CLASSES).all()
        assert result.bboxes.isfinite().all() and result.scores.isfinite().all()


@pytest.mark.parametrize('variant', ['htc', 'scnet', 'mask_scoring', 'point_rend', 'grid'])
def test_bfloat16_autocast_keeps_the_losses_in_float32(variant):
    head = build_variant(variant, 'BucketedRSLoss')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = losses_of(head, segmented_batch())
    assert all(value.dtype == torch.float32 for key, value in losses.items() if key not in OTHER_LOSSES)
    assert all(value.isfinite() for value in losses.values())


@EACH
def test_box_head_without_regression_ranks_rois_by_their_ious(name):
    head = build(bbox_head_cfg(name, with_reg=False))
    rois, labels, weights, targets, box_weights = random_rois()
    logits = torch.randn(len(rois), NUM_CLASSES, generator=torch.Generator().manual_seed(1)).requires_grad_()
    losses = head.loss(logits, None, rois, labels, weights, targets, box_weights)
    losses.pop('acc_classes')
    (grad,) = torch.autograd.grad(sum(losses.values()), logits)
    # Without deltas, the decoded boxes are the RoIs.
    predictions = predictions_of_rois(logits, None, rois, labels, weights, targets)
    expected, total = slow_losses(name, predictions, box_weight=1.0)
    expected.pop('loss_bbox')
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        assert value > 0 and losses[key].item() == pytest.approx(value, abs=1e-5)
    torch.testing.assert_close(grad, torch.autograd.grad(total, logits)[0], rtol=1e-4, atol=1e-5)


def remember(head, attribute, seen):
    """Keep the arguments and the result of a method or a module of a head."""
    original = getattr(head, attribute)

    def wrapped(*args, **kwargs):
        result = original(*args, **kwargs)
        seen.setdefault(attribute, []).append((args, kwargs, result))
        return result

    object.__setattr__(head, attribute, wrapped) if not isinstance(original, torch.nn.Module) else None
    if isinstance(original, torch.nn.Module):
        original.register_forward_hook(
            lambda module, args, kwargs, out: seen.setdefault(attribute, []).append((args, kwargs, out)),
            with_kwargs=True,
        )


@EACH
@EVERY
def test_box_losses_equal_a_slow_computation(variant, name):
    """Of the RoIs that each stage is given; TridentNet ranks those of all its branches together."""
    head = build_variant(variant, name)
    several = isinstance(head.bbox_head, torch.nn.ModuleList)
    stages = list(head.bbox_head) if several else [head.bbox_head]
    seen = [{} for _ in stages]
    for stage, own in zip(stages, seen, strict=True):
        remember(stage, 'loss', own)
    losses = losses_of(head, segmented_batch())
    for index, own in enumerate(seen):
        ((args, _, _),) = own['loss']
        predictions = predictions_of_rois(*args)
        assert sum(p.label < NUM_CLASSES for p in predictions) > 5
        expected, _ = slow_losses(name, predictions, box_weight=1.5)
        if not stages[index].with_reg:  # Grid R-CNN
            expected.pop('loss_bbox')
        prefix = f's{index}.' if several else ''
        for key, value in expected.items():
            assert losses[prefix + key].item() == pytest.approx(value, rel=1e-4, abs=1e-5), prefix + key


def cross_entropy(logit, target):
    return math.log1p(math.exp(-logit if target > 0.5 else logit))


def weighted_mean(values, weights):
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def slow_mask_loss(mask_preds, targets, positives):
    """``sum_i p_i l_i / sum_i p_i`` for masks, pixel by pixel."""
    labels = torch.cat([image.pos_gt_labels for image in positives]).tolist()
    scores = torch.cat([image.pos_scores for image in positives]).tolist()
    each = []
    for i, label in enumerate(labels):
        pairs = zip(mask_preds[i, label].flatten().tolist(), targets[i].flatten().tolist(), strict=True)
        pixels = [cross_entropy(logit, target) for logit, target in pairs]
        each.append(sum(pixels) / len(pixels))
    return weighted_mean(each, scores)


@EACH
def test_mask_ious_against_a_slow_computation(name):
    head = build_variant('mask_scoring', name)
    seen = {}
    for attribute in ('mask_positives', 'mask_head', 'mask_iou_head'):
        remember(head, attribute, seen)
    remember(head.mask_head, 'get_targets', seen)
    data = batch()
    losses = losses_of(head, data)
    positives = seen['mask_positives'][0][2]
    mask_preds, iou_preds = seen['mask_head'][0][2].detach(), seen['mask_iou_head'][0][2].detach()
    targets = seen['get_targets'][0][2]

    each, scores = [], []
    i = 0
    for image, sample in zip(positives, data[2], strict=True):
        for box, gt, label, score in zip(
            image.pos_priors, image.pos_assigned_gt_inds, image.pos_gt_labels, image.pos_scores, strict=True
        ):
            x1, y1, x2, y2 = box.int().tolist()
            whole = torch.from_numpy(sample.gt_instances.masks.masks[gt]).float()
            inside = whole[max(y1, 0) : max(y2, y1 + 1), max(x1, 0) : max(x2, x1 + 1)].sum() / whole.sum()
            predicted, target = (mask_preds[i, label] > 0.5).float(), targets[i]
            overlap = (predicted * target).sum()
            iou = overlap / (predicted.sum() + target.sum() / (inside + 1e-7) - overlap)
            if iou > 0:
                each.append(0.5 * float(iou_preds[i, label] - iou) ** 2)
                scores.append(float(score))
            i += 1
    expected = {
        'loss_mask': slow_mask_loss(mask_preds, targets, positives),
        'loss_mask_iou': weighted_mean(each, scores),
    }
    factor = ranking(losses, '') / sum(expected.values()) if 'RS' in name else 1
    assert 5 < len(each) < i, 'some masks do not overlap with their objects'
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(float(value * factor), rel=1e-3)


@EACH
def test_points_against_a_slow_computation(name):
    head = build_variant('point_rend', name)
    seen = {}
    for attribute in ('mask_positives', 'mask_head', 'point_head'):
        remember(head, attribute, seen)
    remember(head.mask_head, 'get_targets', seen)
    remember(head.point_head, 'get_roi_rel_points_train', seen)
    data = batch()
    losses = losses_of(head, data)
    positives = seen['mask_positives'][0][2]
    points, predicted = seen['get_roi_rel_points_train'][0][2], seen['point_head'][0][2].detach()
    mask_loss = slow_mask_loss(seen['mask_head'][0][2].detach(), seen['get_targets'][0][2], positives)

    each, scores = [], []
    for image, sample in zip(positives, data[2], strict=True):
        masks = torch.from_numpy(sample.gt_instances.masks.masks).float()
        for box, gt, label, score in zip(
            image.pos_priors, image.pos_assigned_gt_inds, image.pos_gt_labels, image.pos_scores, strict=True
        ):
            i = len(each)
            values = []
            for (u, v), logit in zip(points[i].tolist(), predicted[i, label].tolist(), strict=True):
                x = float(box[0]) + u * float(box[2] - box[0])
                y = float(box[1]) + v * float(box[3] - box[1])
                target = bilinear(masks[gt], x - 0.5, y - 0.5)
                probability = 1 / (1 + math.exp(-logit))
                values.append(-target * math.log(probability) - (1 - target) * math.log(1 - probability))
            each.append(sum(values) / len(values))
            scores.append(float(score))
    expected = {'loss_mask': mask_loss, 'loss_point': weighted_mean(each, scores)}
    factor = ranking(losses, '') / sum(expected.values()) if 'RS' in name else 1
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(float(value * factor), rel=1e-3)


def bilinear(image, x, y):
    """The value between four pixels; 0 outside of the image."""
    height, width = image.shape
    total = 0.0
    for column in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * float(image[row, column])
    return total


@EACH
def test_grid_points_against_a_slow_computation(name):
    head = build_variant('grid', name)
    seen = {}
    remember(head, 'grid_head', seen)
    remember(head.grid_head, 'get_targets', seen)
    losses = losses_of(head, batch())
    positives = seen['get_targets'][0][0][0]
    targets, maps = seen['get_targets'][0][2], seen['grid_head'][0][2]
    scores = [float(score) for image in positives for score in image.pos_scores]
    assert len(scores) == 8, 'max_num_grid'
    each = []
    for i in range(8):
        total = 0.0
        for logits in (maps['fused'][i], maps['unfused'][i]):
            pixels = zip(logits.flatten().tolist(), targets[i].flatten().tolist(), strict=True)
            values = [15 * cross_entropy(logit, target) for logit, target in pixels]
            total += sum(values) / len(values)
        each.append(total)
    expected = ranking(losses, '') if 'RS' in name else weighted_mean(each, scores)
    assert losses['loss_grid'].item() == pytest.approx(float(expected), rel=1e-4)
    # The gradient shows the weights also when the value is balanced.
    (grad,) = torch.autograd.grad(losses['loss_grid'], maps['fused'])
    value = weighted_mean(each, scores)
    factor = float(expected) / value
    for i in range(8):
        slope = 15 * (maps['fused'][i].detach().sigmoid() - targets[i]) / targets[i].numel()
        torch.testing.assert_close(grad[i], factor * scores[i] / sum(scores) * slope, rtol=1e-3, atol=1e-7)


def test_moved_grid_positives_do_not_move_the_rois():
    head = build_variant('grid', 'BucketedRSLoss')
    seen = {}
    remember(head, 'attach_scores', seen)
    head.loss(*batch())
    (results, _, _), _, _ = seen['attach_scores'][0]
    for result in results:
        assert (result.pos_priors[: result.num_gts] == result.pos_gt_bboxes[: result.num_gts]).all()


def scores_by_hand(cls_score):
    return [max(1 / (1 + math.exp(-logit)) for logit in row) for row in cls_score.tolist()]


@EACH
@pytest.mark.parametrize('interleaved', [True, False])
def test_masks_of_htc_against_a_slow_computation(interleaved, name):
    """The weight of a refined box is the score of the RoI that it was refined from."""
    head = build_variant('htc', name, interleaved=interleaved)
    seen = {}
    remember(head, 'mask_positives', seen)
    heads = [{} for _ in head.bbox_head]
    for stage, stage_seen in enumerate(heads):
        remember(head.bbox_head[stage], 'loss_and_target', stage_seen)
        remember(head.bbox_head[stage], 'refine_bboxes', stage_seen)
        remember(head.mask_head[stage], 'loss_and_target', stage_seen)
    losses = losses_of(head, segmented_batch())
    for stage, stage_seen in enumerate(heads):
        (_, kwargs, _), (_, mask_kwargs, mask_out) = stage_seen['loss_and_target']
        rois, scores = kwargs['rois'].tolist(), scores_by_hand(kwargs['cls_score'])
        positives = mask_kwargs['sampling_results']
        for image, result in enumerate(positives):
            own = [i for i, roi in enumerate(rois) if roi[0] == image]
            # Ground truth, and RoIs that are not refined. On a CPU, MMDetection's mask targets clip them in place.
            source = {tuple(min(max(side, 0), SIZE) for side in rois[i][1:]): scores[i] for i in own}
            if interleaved:
                is_gt = kwargs['sampling_results'][image].pos_is_gt.tolist()
                refined = stage_seen['refine_bboxes'][0][2][image]
                boxes = (refined.bboxes if 'bboxes' in refined else refined.priors).tolist()
                kept = [i for position, i in enumerate(own) if position >= len(is_gt) or not is_gt[position]]
                source.update({tuple(box): scores[i] for box, i in zip(boxes, kept, strict=True)})
            assert len(result.pos_priors) > 5
            for prior, score in zip(result.pos_priors.tolist(), result.pos_scores.tolist(), strict=True):
                assert score == pytest.approx(source[tuple(prior)], rel=1e-5)
        value = slow_mask_loss(mask_kwargs['mask_preds'].detach(), mask_out['mask_targets'], positives)
        prefix = f's{stage}.'
        expected = float(ranking(losses, prefix)) if 'RS' in name else value
        assert losses[f'{prefix}loss_mask'].item() == pytest.approx(expected, rel=1e-4)
        assert mask_out['loss_mask']['loss_mask'].item() == pytest.approx(value, rel=1e-4)
        if 'RS' in name:
            assert losses[f'{prefix}loss_bbox'].item() == pytest.approx(expected, rel=1e-4)


def test_the_semantic_branch_keeps_its_weight():
    head = build_variant('htc', 'BucketedRSLoss')
    data = segmented_batch()
    losses = losses_of(head, data)
    logits, _ = head.semantic_head(data[0])
    target = torch.stack([sample.gt_sem_seg.sem_seg for sample in data[2]]).squeeze(1)[:, ::8, ::8]
    expected = 0.2 * torch.nn.functional.cross_entropy(logits, target)
    assert losses['loss_semantic_seg'].item() == pytest.approx(expected.item(), rel=1e-5)


@EACH
def test_masks_of_scnet_against_a_slow_computation(name):
    """Their loss is balanced to the ranking losses of all stages; relayed features follow the drawn positives."""
    head = build_variant('scnet', name, max_mask_positives=7)
    seen = {}
    for attribute in ('mask_positives', 'feat_relay_head', '_mask_forward'):
        remember(head, attribute, seen)
    remember(head.mask_head, 'loss_and_target', seen)
    losses = losses_of(head, segmented_batch())
    (_, kwargs, out) = seen['loss_and_target'][0]
    positives = kwargs['sampling_results']
    assert sum(len(image) for image in positives) == 7
    value = slow_mask_loss(kwargs['mask_preds'].detach(), out['mask_targets'], positives)
    stages = ('s0.', 's1.', 's2.')
    expected = float(ranking(losses, *stages)) if 'RS' in name else 3 * value
    assert losses['loss_mask'].item() == pytest.approx(expected, rel=1e-4)
    all_positives, _, _ = seen['mask_positives'][0]
    relayed = seen['feat_relay_head'][0][2]
    used = seen['_mask_forward'][0][1]['relayed_feat']
    priors = torch.cat([image.pos_priors for image in positives]).tolist()
    every_prior = torch.cat([result.pos_priors for result in all_positives[0]]).tolist()
    for feature, prior in zip(used, priors, strict=True):
        assert torch.equal(feature, relayed[every_prior.index(prior)])


def test_iou_thresholds_of_dynamic_rcnn_follow_the_proposals():
    head = build_variant('dynamic', 'BucketedRSLoss')
    x, proposals, samples = batch(near=False)
    ious = []
    for image, sample in zip(proposals, samples, strict=True):
        boxes = torch.cat([sample.gt_instances.bboxes, image.bboxes])
        best = sorted(max(float(giou(box, gt)[1]) for gt in sample.gt_instances.bboxes) for box in boxes)
        ious.append(best[-5])
    expected = pytest.approx(max(0.4, sum(ious) / 2))
    for iteration in range(4):
        assert head.bbox_assigner.pos_iou_thr == (0.5 if iteration < 2 else expected)
        copies = [InstanceData(bboxes=image.bboxes.clone()) for image in proposals]
        head.loss(x, copies, samples)
        assert len(head.iou_history) == (iteration + 1) % 2
    for threshold in ('pos_iou_thr', 'neg_iou_thr', 'min_pos_iou'):
        assert getattr(head.bbox_assigner, threshold) == expected
