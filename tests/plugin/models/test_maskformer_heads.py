"""MaskFormer and Mask2Former trained with a ranking loss: against loops, as whole detectors, and at inference."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import losses_after_backward
from gloo import on_processes, trained_in_step
from maskformer_reference import Settings, slow_layer
from mmdet.models.dense_heads import Mask2FormerHead, MaskFormerHead
from mmdet.models.tracking_heads import Mask2FormerTrackHead
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import InstanceData
from small_maskformers import (
    NUM_CLASSES,
    NUM_FRAMES,
    NUM_LAYERS,
    NUM_QUERIES,
    STOCK,
    VIDEO,
    batch,
    build,
    small_config,
    small_head,
)
from swap_survey import configs
from torch import Tensor

from bucketed_losses.core.devices import as_on_an_accelerator
from bucketed_losses.mmdet.models.losses import RankingLoss
from bucketed_losses.mmdet.swap import SwapError, swap_loss

LOSSES = ('APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss')
EVERY_HEAD = pytest.mark.parametrize('stock', STOCK)
HOSTS = dict(MaskFormerHead=MaskFormerHead, Mask2FormerHead=Mask2FormerHead, Mask2FormerTrackHead=Mask2FormerTrackHead)
SIDE = 4  # of predicted masks
METAS = [dict(img_shape=(2 * SIDE, 2 * SIDE))] * 2
LABELS = ([2, 0], [1])


class Case(NamedTuple):
    """Random predictions and objects."""

    logits: list[Tensor]
    masks: list[Tensor]
    objects: list[InstanceData]

    def losses(self, head: Any) -> dict[str, Tensor]:
        return head.loss_by_feat(self.logits, self.masks, self.objects, METAS)

    def leaves(self) -> list[Tensor]:
        return [*self.logits, *self.masks]


def case(stock: str, labels: tuple[list[int], ...] = LABELS, num_layers: int = NUM_LAYERS) -> Case:
    """Blobs that resemble the objects, and noise."""
    generator = torch.Generator().manual_seed(2)
    frames = (NUM_FRAMES,) if stock == VIDEO else ()
    objects = []
    for own in labels:
        true = torch.randn(len(own), *frames, SIDE, SIDE, generator=generator).repeat_interleave(2, -1)
        true = true.repeat_interleave(2, -2) + 0.7 * torch.randn(
            len(own), *frames, 2 * SIDE, 2 * SIDE, generator=generator
        )
        objects.append(InstanceData(labels=torch.tensor(own).long(), masks=(true > 0).long()))
    logits, masks = [], []
    for _ in range(num_layers):
        logits.append(torch.randn(len(labels), NUM_QUERIES, NUM_CLASSES, generator=generator).requires_grad_())
        predicted = 1.5 * torch.randn(len(labels), NUM_QUERIES, *frames, SIDE, SIDE, generator=generator)
        for image, own in enumerate(objects):
            for index, true in enumerate(own.masks):
                predicted[image, 3 * index] += 2.0 * true[..., ::2, ::2] - 1
        masks.append(predicted.requires_grad_())
    return Case(logits, masks, objects)


@pytest.fixture
def points_at_pixels(monkeypatch):
    """Random points become the centres of the pixels of predicted masks."""
    centres = (torch.arange(SIDE) + 0.5) / SIDE
    grid = torch.cartesian_prod(centres, centres)

    def points(*shape, device=None):
        first = shape[0][0] if isinstance(shape[0], tuple) else shape[0]
        return grid.repeat(first, 1, 1)

    def use(head):
        head.num_points, head.oversample_ratio, head.importance_sample_ratio = SIDE * SIDE, 1, 0
        monkeypatch.setattr(torch, 'rand', points)

    return use


@pytest.mark.parametrize('accelerator', [False, True])
@pytest.mark.parametrize('loss', LOSSES)
@EVERY_HEAD
def test_losses_equal_loops(stock, loss, accelerator, points_at_pixels):
    """Matching too, by trying all assignments. Values, and the gradients of all predictions."""
    head = small_head(stock, loss)
    given = case(stock)
    points_at_pixels(head)
    with as_on_an_accelerator() if accelerator else torch.enable_grad():
        fast = given.losses(head)
    settings = Settings(False, 20.0, 1.0) if stock == 'MaskFormerHead' else Settings(True, 5.0, 5.0)
    slow, total = {}, 0
    for prefix, logits, masks in zip(('d0.', ''), given.logits, given.masks, strict=True):
        objects = [own.masks for own in given.objects]
        if stock != VIDEO:
            masks, objects = masks.unsqueeze(2), [own.unsqueeze(1) for own in objects]
        values, value = slow_layer(loss, settings, logits, masks, list(LABELS), objects)
        slow |= {prefix + name: number for name, number in values.items()}
        total = total + value
    assert {name: value.item() for name, value in fast.items()} == pytest.approx(slow, rel=1e-4, abs=1e-5)
    expected = torch.autograd.grad(total, given.leaves(), allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(torch.autograd.grad(sum(fast.values()), given.leaves()), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@EVERY_HEAD
def test_mask_losses_are_those_of_the_stock_head(stock, monkeypatch):
    """With the same matches and the same points, for a loss that does not balance them."""
    head, plain = small_head(stock, 'APLoss'), small_head(stock, ranking=False)
    given = case(stock, num_layers=1)
    targets = head.match(given.logits[0], given.masks[0], given.objects, METAS)
    monkeypatch.setattr(head, 'match', lambda *_: targets)
    own = [[index for index in targets.positive.tolist() if index // NUM_QUERIES == image] for image in range(2)]
    weights = torch.zeros(2 * NUM_QUERIES)
    weights[targets.positive] = 1
    all_masks = torch.cat([image.masks for image in given.objects])[targets.objects]
    stacked = (
        [*targets.labels],
        [*targets.weights.float()],
        [*all_masks.split([len(rows) for rows in own])],
        [*weights.view(2, -1)],
        len(targets.positive),
    )
    monkeypatch.setattr(plain, 'get_targets', lambda *_: stacked)
    softmax = torch.zeros(2, NUM_QUERIES, NUM_CLASSES + 1)
    torch.manual_seed(3)
    _, loss_mask, loss_dice = plain._loss_by_feat_single(softmax, given.masks[0], given.objects, METAS)
    torch.manual_seed(3)
    losses = given.losses(head)
    torch.testing.assert_close(losses['loss_mask'], loss_mask.squeeze())
    torch.testing.assert_close(losses['loss_dice'], loss_dice.squeeze())


@pytest.mark.parametrize('loss', LOSSES)
@EVERY_HEAD
def test_without_objects_losses_are_zero_and_connected(stock, loss):
    given = case(stock, ([], []))
    losses = given.losses(small_head(stock, loss))
    assert len(losses) == NUM_LAYERS * (3 + ('RS' in loss)) and not any(losses.values())
    assert not any(gradient.any() for gradient in torch.autograd.grad(sum(losses.values()), given.leaves()))


@EVERY_HEAD
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')], ids=str)
def test_predictions_that_are_not_finite_make_the_loss_nan(stock, bad):
    """Of logits and of masks, of one query of one image, with objects in the batch or without."""
    head = small_head(stock)
    for labels in (LABELS, (LABELS[0], [])):
        for what in ('logits', 'masks'):
            given = case(stock, labels)
            with torch.no_grad():
                getattr(given, what)[0][1, -1, 0] = bad
            assert not sum(given.losses(head).values()).isfinite()


@EVERY_HEAD
def test_the_scope_image_is_the_mean_over_images(stock):
    alone, together = small_head(stock), small_head(stock)
    alone.loss_cls.scope = 'image'
    given = case(stock)
    targets = [together.match(*layer, given.objects, METAS) for layer in zip(given.logits, given.masks, strict=True)]
    assert all((one.labels < NUM_CLASSES).sum() == 3 for one in targets)

    def ranking(head, images):
        part = Case([x[images] for x in given.logits], [x[images] for x in given.masks], given.objects[images])
        torch.manual_seed(0)
        return part.losses(head)['loss_rank'].item()

    if stock == 'MaskFormerHead':  # its matching has no random points
        each = [ranking(together, slice(image, image + 1)) for image in range(2)]
        assert ranking(alone, slice(0, 2)) == pytest.approx(sum(each) / 2, rel=1e-5)
    else:
        assert ranking(alone, slice(0, 2)) != pytest.approx(ranking(together, slice(0, 2)), rel=1e-3)


@EVERY_HEAD
def test_the_classifier_starts_without_a_prior_and_without_no_object(stock):
    head = small_head(stock)
    assert head.cls_embed.out_features == NUM_CLASSES and not head.cls_embed.bias.any()
    lowered = small_head(stock, classifier_prior=0.01)
    assert lowered.cls_embed.bias[0].item() == pytest.approx(-4.595, abs=1e-3) and lowered.score_shift == 0


@EVERY_HEAD
def test_losses_that_do_not_fit_are_named(stock):
    focal = dict(type='FocalLoss', use_sigmoid=True)
    with pytest.raises(ValueError, match=f"RankBased{stock}: loss_cls must be a ranking loss.*type='{stock}'"):
        small_head(stock, loss_cls=focal)
    with pytest.raises(ValueError, match=f'RankBased{stock}: aLRPLoss is a box loss too, and queries have loss_mask'):
        small_head(stock, loss_cls=dict(type='aLRPLoss'))


@EVERY_HEAD
def test_bfloat16_autocast_keeps_the_loss_in_float32(stock):
    given = case(stock)
    half = Case([x.bfloat16() for x in given.logits], [x.bfloat16() for x in given.masks], given.objects)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = half.losses(small_head(stock))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


@pytest.mark.medium
@pytest.mark.parametrize('stock', ['MaskFormerHead', 'Mask2FormerHead'])
def test_the_stock_fusion_head_is_refused(stock):
    """It would drop the last class and read masks of other queries, without an error."""
    model = swap_loss(small_config(stock)).cfg.model
    model.panoptic_fusion_head.type = 'MaskFormerFusionHead'
    with pytest.raises(
        ValueError, match=f"RankBased{stock} has sigmoid scores.*use type='RankBasedMaskFormerFusionHead'"
    ):
        build(model)
    build(small_config(stock).model)


@pytest.mark.stack
@EVERY_HEAD
def test_matching_in_float16_is_that_in_float32(stock):
    """Also where a mask logit is so large that its sigmoid is 1 in float16."""
    head, given = small_head(stock), case(stock)
    logits, masks = given.logits[0].detach(), given.masks[0].detach().mul(12).half().float()
    matched = []
    for dtype in (torch.float16, torch.float32):
        with torch.autocast('cpu', dtype=torch.bfloat16):  # float16 autocast on a CPU needs torch 2.3
            torch.manual_seed(0)  # points are drawn
            matched.append(head.match(logits.to(dtype), masks.to(dtype), given.objects, METAS))
    half, full = matched
    assert len(full.positive) == 3 and torch.equal(half.positive, full.positive)
    assert torch.equal(half.labels, full.labels)


# ---------------------------------------------------------------------------------------------------------------------
# Inference


@pytest.mark.parametrize('stuff', [0, 2])
def test_instances_are_those_of_sigmoid_scores(stuff):
    """The best (query, class) pairs; things only; the score is that of the class times the mean of its pixels."""
    head = MODELS.build(
        dict(
            type='RankBasedMaskFormerFusionHead',
            num_things_classes=NUM_CLASSES - stuff,
            num_stuff_classes=stuff,
            test_cfg=dict(max_per_image=7),
        )
    )
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(5, NUM_CLASSES, generator=generator), torch.randn(5, 6, 6, generator=generator)
    found = head.instance_postprocess(logits, masks)
    pairs = sorted(((float(logits[q, c]), q, c) for q in range(5) for c in range(NUM_CLASSES)), reverse=True)[:7]
    expected = []
    for logit, query, number in pairs:
        if number < NUM_CLASSES - stuff:
            own = masks[query] > 0
            score = torch.tensor(logit).sigmoid() * masks[query][own].sigmoid().mean()
            expected.append((float(score), number, own))
    assert len(found) == len(expected)
    order = found.scores.argsort(descending=True)
    for index, (score, number, own) in zip(order, sorted(expected, key=lambda one: -one[0]), strict=True):
        assert found.scores[index].item() == pytest.approx(score, rel=1e-4)
        assert found.labels[index] == number and torch.equal(found.masks[index], own)


@pytest.mark.parametrize('most', [10, 40])
@pytest.mark.parametrize('num_classes', [1, 3])
def test_fewer_pairs_than_detections(num_classes, most):
    """The config may allow more detections than there are pairs of a query and a class."""
    cfg = dict(num_things_classes=num_classes, num_stuff_classes=0, test_cfg=dict(max_per_image=most))
    head = MODELS.build(dict(type='RankBasedMaskFormerFusionHead', **cfg))
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(5, num_classes, generator=generator), torch.randn(5, 6, 6, generator=generator)
    found = head.instance_postprocess(logits, masks)
    assert len(found) == min(5 * num_classes, most) == len(found.masks)
    pixels = torch.stack([mask[mask > 0].sigmoid().mean() for mask in masks])
    expected = (logits.sigmoid() * pixels[:, None]).flatten().sort(descending=True).values
    best = found.scores.sort(descending=True).values
    torch.testing.assert_close(best[: min(len(best), 5)], expected[: min(len(best), 5)], rtol=1e-4, atol=0)


@pytest.mark.parametrize('no_object_logit', [0.0, 1.0])
def test_panoptic_segments_are_those_of_sigmoid_scores(no_object_logit):
    """Each pixel belongs to the query with the highest product of the probabilities of class and pixel."""
    head = MODELS.build(
        dict(
            type='RankBasedMaskFormerFusionHead',
            num_things_classes=2,
            num_stuff_classes=1,
            test_cfg=dict(object_mask_thr=0.55, iou_thr=0.0),
            no_object_logit=no_object_logit,
        )
    )
    generator = torch.Generator().manual_seed(1)
    logits, masks = 1.5 * torch.randn(6, 3, generator=generator), 3 * torch.randn(6, 8, 8, generator=generator)
    segments = head.panoptic_postprocess(logits, masks).sem_seg[0]
    scores = (logits - no_object_logit).sigmoid().amax(1)
    kept = [query for query in range(6) if scores[query] > 0.55]
    assert 1 < len(kept) < 6
    for y in range(8):
        for x in range(8):
            best = max(kept, key=lambda query: float(scores[query] * masks[query, y, x].sigmoid()))
            assert segments[y, x] % 1000 == logits[best].argmax()


def test_instances_of_a_video_are_those_of_sigmoid_scores():
    head = small_head(VIDEO)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(NUM_QUERIES, NUM_CLASSES, generator=generator)
    masks = torch.randn(NUM_QUERIES, NUM_FRAMES, 8, 8, generator=generator)
    meta = dict(img_shape=(8, 8), ori_shape=(8, 8))
    frames = head.predict_by_feat(logits, masks, [meta] * NUM_FRAMES)
    pairs = sorted(((float(logits[q, c]), q, c) for q in range(NUM_QUERIES) for c in range(NUM_CLASSES)), reverse=True)
    for number, frame in enumerate(frames):
        order = frame.scores.argsort(descending=True)
        for index, (logit, query, label) in zip(order, pairs[:10], strict=True):
            assert frame.scores[index].item() == pytest.approx(float(torch.tensor(logit).sigmoid()), rel=1e-5)
            assert frame.labels[index] == label and torch.equal(frame.masks[index], masks[query, number] > 0)


# ---------------------------------------------------------------------------------------------------------------------
# Whole detectors, from stock configs


@pytest.mark.parametrize('file', configs('maskformer', 'mask2former', 'mask2former_vis'), ids=lambda file: file.stem)
def test_every_stock_config_is_converted(file):
    stock = Config.fromfile(file).model
    swap = swap_loss(Config.fromfile(file))
    model = swap.cfg.model
    key = 'track_head' if 'track_head' in model else 'panoptic_head'
    head, before = model[key], stock[key]
    assert head.type == f'RankBased{before.type}' and head.loss_cls == dict(type='BucketedRSLoss', loss_weight=2.0)
    assert head.loss_mask == before.loss_mask and head.loss_dice == before.loss_dice
    costs, old = (
        (part.get('train_cfg') or whole.train_cfg).assigner.match_costs
        for part, whole in ((head, model), (before, stock))
    )
    assert costs[0] == dict(type='FocalLossCost', weight=4.0) and costs[1:] == old[1:]
    panoptic = 'panoptic_fusion_head' in stock and stock.test_cfg.panoptic_on
    assert any('object_mask_thr' in note for note in swap.notes) == panoptic
    if 'panoptic_fusion_head' in stock:
        assert model.panoptic_fusion_head.type == 'RankBasedMaskFormerFusionHead'


@pytest.mark.medium
@EVERY_HEAD
def test_a_swapped_detector_trains_every_parameter(stock):
    detector = build(swap_loss(small_config(stock)).cfg.model).train()
    calls = []
    for module in detector.modules():
        if isinstance(module, RankingLoss):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    with as_on_an_accelerator():
        losses = losses_after_backward(detector, batch(detector))
    assert len(calls) == 1, 'all layers are ranked in one call'
    parts = ('loss_rank', 'loss_sort', 'loss_mask', 'loss_dice')
    assert set(losses) == {prefix + part for prefix in ('d0.', '') for part in parts}
    assert all(losses[f'{prefix}loss_rank'] > 0 for prefix in ('d0.', ''))
    detector.zero_grad()
    assert not any(losses_after_backward(detector, batch(detector, (0, 0))).values())
    detector.eval()
    with torch.no_grad():
        (result, *_) = detector(**copy.deepcopy(batch(detector, training=False)), mode='predict')
    assert result is not None


@pytest.mark.medium
def test_processes_stay_in_step_if_one_of_them_has_no_objects():
    """Every parameter gets a gradient on both; DDP does not look for unused ones."""
    models = [swap_loss(small_config(stock)).cfg.model for stock in ('MaskFormerHead', 'Mask2FormerHead')]
    for equal in on_processes(2, trained_in_step, build, batch, models):
        assert equal == [True, True]


@pytest.mark.medium
def test_panoptic_segmentation_trains_and_predicts():
    cfg = small_config('Mask2FormerHead', num_stuff_classes=2)
    cfg.model.test_cfg.panoptic_on = True
    detector = build(swap_loss(cfg).cfg.model).train()
    losses = losses_after_backward(detector, batch(detector))
    assert losses['loss_rank'] > 0
    detector.eval()
    with torch.no_grad():
        results = detector(**batch(detector, training=False), mode='predict')
    assert results[0].pred_panoptic_seg.sem_seg.shape == (1, 64, 64)


def test_another_head_of_a_panoptic_detector_is_refused():
    cfg = small_config('Mask2FormerHead')
    cfg.model.panoptic_fusion_head.type = 'HeuristicFusionHead'
    message = 'panoptic_fusion_head has the type HeuristicFusionHead, which has no ranking form'
    with pytest.raises(SwapError, match=message):
        swap_loss(cfg)
