"""Query heads of MMDetection trained with a ranking loss: against loops, as whole detectors, and at inference."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.distributed as dist

pytest.importorskip('mmdet')

import small_sparse_roi_heads
from config_models import losses_after_backward
from detr_reference import slow_query_losses
from gloo import on_processes, trained_in_step
from mmdet.models.dense_heads import DDQDETRHead, DINOHead
from mmengine.config import Config
from small_query_heads import (
    DENOISING,
    ENCODER,
    METAS,
    NUM_DENSE,
    NUM_LAYERS,
    STOCK,
    batch,
    build,
    case,
    nothing,
    of_image,
    one_of_two,
    random_predictions,
    same_predictions,
    shake,
    small_config,
    small_head,
    truth,
)
from swap_survey import configs

from bucketed_losses.core.devices import as_on_an_accelerator
from bucketed_losses.mmdet.models.losses import RankingLoss
from bucketed_losses.mmdet.swap import swap_loss

LOSSES = ('APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss')
EVERY_HEAD = pytest.mark.parametrize('stock', STOCK)
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)


@pytest.mark.parametrize(
    ('objects', 'accelerator'), [(truth, False), (truth, True), (one_of_two, False)], ids=['cpu', 'gpu path', 'empty']
)
@pytest.mark.parametrize('loss', LOSSES)
@EVERY_HEAD
def test_losses_equal_loops(stock, loss, objects, accelerator):
    """Matching too, by trying all assignments. Values, and the gradients of all predictions."""
    head = small_head(stock, loss)
    given = case(head, stock, objects())
    with as_on_an_accelerator() if accelerator else torch.enable_grad():
        fast = head.loss_by_feat(*given.arguments, **given.keywords)
    slow, total = {}, 0
    for prefix, queries in given.sets.items():
        values, value = slow_query_losses(loss, queries, class_weight=2.0)
        weight = 0.25 if '_aux_' in prefix else 1.0  # DDQ's dense queries
        slow |= {prefix + name: weight * number for name, number in values.items()}
        total = total + weight * value
    assert {name: value.item() for name, value in fast.items()} == pytest.approx(slow, rel=1e-4, abs=1e-5)
    expected = torch.autograd.grad(total, given.leaves, allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(torch.autograd.grad(sum(fast.values()), given.leaves), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def losses_and_gradients(head, given):
    losses = head.loss_by_feat(*given.arguments, **given.keywords)
    return {name: value.detach() for name, value in losses.items()}, torch.autograd.grad(
        sum(losses.values()), given.leaves, allow_unused=True, materialize_grads=True
    )


def scoped_case(stock, loss, scope, objects):
    head = small_head(stock, loss, loss_cls=dict(type=loss, loss_weight=2.0, scope=scope))
    return head, case(head, stock, objects())


def ranking_losses_and_gradients(head, given):
    losses = head.loss_by_feat(*given.arguments, **given.keywords)
    ranking = {name: value for name, value in losses.items() if 'rank' in name or 'sort' in name}
    return ranking, torch.autograd.grad(sum(ranking.values()), given.leaves[::2])  # logits; the others are boxes


@pytest.mark.parametrize(
    ('loss', 'objects'),
    [('APLoss', truth), ('BucketedAPLoss', one_of_two), ('BucketedRSLoss', truth), ('RSLoss', one_of_two)],
)
@EVERY_HEAD
def test_images_ranked_alone_have_the_mean_of_their_losses(stock, loss, objects):
    losses, gradients = ranking_losses_and_gradients(*scoped_case(stock, loss, 'image', objects))
    alone = []
    for image in range(2):
        head, given = scoped_case(stock, loss, 'batch', objects)
        alone.append(ranking_losses_and_gradients(head, of_image(head, given, image)))
    assert losses and gradients
    for name, value in losses.items():
        torch.testing.assert_close(value, (alone[0][0][name] + alone[1][0][name]) / 2, msg=name)
    for together, *own in zip(gradients, alone[0][1], alone[1][1], strict=True):
        joined = torch.cat(own, dim=1 if together.dim() == 4 else 0) / 2
        torch.testing.assert_close(joined, together)


SCOPES = [
    (stock, loss, scope, objects)
    for stock in STOCK
    for loss, scope, objects in (
        ('APLoss', 'batch', one_of_two),
        ('APLoss', 'global', one_of_two),
        ('BucketedRSLoss', 'global', truth),
        ('BucketedRSLoss', 'global', one_of_two),
    )
]


def losses_of_own_image(runs):
    found = []
    for run in runs:
        head, given = scoped_case(*run)
        losses, gradients = losses_and_gradients(head, of_image(head, given, dist.get_rank()))
        found.append((losses, list(gradients)))
    return found


@pytest.mark.medium
def test_processes_with_an_image_each_have_the_losses_of_both_images():
    """Their mean, and the gradients that DDP averages. Box losses with every scope, ranking losses with 'global'."""
    for run, *own in zip(SCOPES, *on_processes(2, losses_of_own_image, SCOPES), strict=True):
        head, given = scoped_case(*run)
        losses, gradients = losses_and_gradients(head, given)
        for name, value in losses.items():
            if run[2] == 'global' or 'bbox' in name or 'iou' in name:
                torch.testing.assert_close((own[0][0][name] + own[1][0][name]) / 2, value, msg=f'{run} {name}')
        if run[2] == 'global':
            for index, whole in enumerate(gradients):
                parts = [process[1][index] for process in own]
                joined = torch.cat(parts, dim=1 if whole.dim() == 4 else 0) / 2
                torch.testing.assert_close(joined, whole, msg=f'{run} leaf {index}')


@pytest.mark.parametrize('loss', LOSSES)
@EVERY_HEAD
def test_without_objects_losses_are_zero_and_connected(stock, loss):
    head = small_head(stock, loss)
    given = case(head, stock, nothing())
    losses = head.loss_by_feat(*given.arguments, **given.keywords)
    assert not any(losses.values())
    assert not any(gradient.any() for gradient in torch.autograd.grad(sum(losses.values()), given.leaves))


@EVERY_HEAD
def test_predictions_that_are_not_finite_make_the_loss_nan(stock):
    head = small_head(stock, 'BucketedRSLoss')
    given = case(head, stock)
    with torch.no_grad():
        for leaf in given.leaves[::2]:
            leaf[..., -1, 0] = torch.nan
    losses = head.loss_by_feat(*given.arguments, **given.keywords)
    assert sum(losses.values()).isnan()


@pytest.mark.parametrize('stock', DENOISING)
def test_denoising_queries_can_keep_the_losses_of_the_stock_head(stock):
    head = small_head(stock, 'BucketedRSLoss', loss_dn_cls=FOCAL, classifier_prior=0.5)
    plain = small_head(stock, 'FocalLoss', ranking=False, loss_cls=FOCAL, sync_cls_avg_factor=True)
    given = case(head, stock)
    losses = head.loss_by_feat(*given.arguments, **given.keywords)
    assert 'dn_loss_rank' not in losses
    logits, boxes, *_, dn_meta = given.arguments
    num = dn_meta['num_denoising_queries']
    expected = DINOHead.loss_dn(plain, logits[:, :, :num], boxes[:, :, :num], truth(), METAS, dn_meta)
    for layer, prefix in enumerate(('d0.dn_', 'dn_')):
        for values, name in zip(expected, ('loss_cls', 'loss_bbox', 'loss_iou'), strict=True):
            torch.testing.assert_close(losses[prefix + name], values[layer].squeeze())
    ranked = small_head(stock, 'BucketedRSLoss')
    others = ranked.loss_by_feat(*case(ranked, stock).arguments, **given.keywords)
    for name in set(losses) & set(others):
        if 'dn_' not in name:
            torch.testing.assert_close(losses[name], others[name])


@pytest.mark.parametrize('loss', ['FocalLoss', 'QualityFocalLoss'])
@pytest.mark.parametrize('objects', [truth, one_of_two, nothing])
def test_losses_of_denoising_queries_without_ranking_equal_loops(loss, objects):
    head = small_head('DINOHead', 'BucketedRSLoss', loss_dn_cls=dict(type=loss, use_sigmoid=True, loss_weight=1.0))
    given = case(head, 'DINOHead', objects(), dn_padding_ignored=False)
    losses, gradients = losses_and_gradients(head, given)
    for prefix in ('d0.dn_', 'dn_'):
        if objects is nothing:
            assert not any(losses[prefix + part] for part in ('loss_cls', 'loss_bbox', 'loss_iou'))
            continue
        values, _ = slow_query_losses(loss, given.sets[prefix], class_weight=1.0)
        assert {name: losses[prefix + name].item() for name in values} == pytest.approx(values, rel=1e-4)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('stock', DENOISING)
def test_losses_of_denoising_queries_that_do_not_fit_are_named(stock):
    for wrong in (dict(type='BucketedRSLoss'), dict(type='CrossEntropyLoss')):
        name = wrong['type']
        with pytest.raises(ValueError, match=f'RankBased{stock}: loss_dn_cls must be.*use_sigmoid=True.*got {name}'):
            small_head(stock, 'BucketedRSLoss', loss_dn_cls=wrong)
    for name in ('VarifocalLoss', 'IABCELoss', 'EQLV2Loss'):
        wrong = dict(type=name, **({} if name == 'IABCELoss' else dict(use_sigmoid=True)))
        with pytest.raises(ValueError, match=f'RankBased{stock}: loss_dn_cls must .*{name}'):
            small_head(stock, 'BucketedRSLoss', loss_dn_cls=wrong)
    for right in ('FocalLoss', 'CrossEntropyLoss', 'GHMC'):
        small_head(stock, 'BucketedRSLoss', loss_dn_cls=dict(type=right, use_sigmoid=True))


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_dense_queries_are_matched_in_half_precision(dtype):
    head = small_head('DDQDETRHead', 'BucketedRSLoss')
    logits, boxes = (values.detach().to(dtype) for values in random_predictions(3, 2, 7))
    half = head.dense_targets(logits, boxes, truth(), METAS)
    full = head.dense_targets(logits.float(), boxes.float(), truth(), METAS)
    assert len(full.positive) and all(torch.equal(one, other) for one, other in zip(half, full, strict=True))


def test_dense_queries_are_weighted():
    """Values and gradients of dense queries; all others stay."""
    dense, others = [], []
    for weight in (1.0, 0.25):
        head = small_head('DDQDETRHead', 'BucketedRSLoss', dense_weight=weight)
        losses, gradients = losses_and_gradients(head, case(head, 'DDQDETRHead'))
        dense.append([value for name, value in losses.items() if '_aux_' in name])
        others.append({name: value for name, value in losses.items() if '_aux_' not in name})
        of_layers, of_encoder = gradients[0], gradients[-2:]
        dense[-1] += [of_layers[:, :, -NUM_DENSE:], *of_encoder]
        others[-1]['gradient'] = of_layers[:, :, :-NUM_DENSE]
    assert len(dense[0]) == 3 * 4 + 3  # losses of three sets, three gradients
    for whole, quarter in zip(*dense, strict=True):
        torch.testing.assert_close(quarter, whole / 4)
    for name, value in others[0].items():
        torch.testing.assert_close(others[1][name], value, msg=name)


def test_an_image_with_few_distinct_queries_has_few_predictions():
    """The stock head cannot choose 20 of the 12 scores of three queries."""
    logits, boxes = (values.detach() for values in random_predictions(5, 3))
    meta = dict(img_shape=(100, 160), scale_factor=(2.0, 2.0))

    def predict(head, max_per_img, count=3):
        head.test_cfg = dict(max_per_img=max_per_img)
        return head._predict_by_feat_single(logits[:count], boxes[:count], meta)

    head, plain = small_head('DDQDETRHead', 'BucketedRSLoss'), small_head('DDQDETRHead', 'FocalLoss', ranking=False)
    with pytest.raises(RuntimeError, match='out of range'):
        predict(plain, 20)
    for max_per_img, expected in ((20, 12), (13, 12), (12, 12), (5, 5)):
        found, all_of_stock = predict(head, max_per_img), predict(plain, expected)
        assert len(found) == expected
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(found[key], all_of_stock[key])
    assert len(predict(head, 20, count=0)) == 0


@EVERY_HEAD
def test_classifiers_start_without_a_prior(stock):
    head = small_head(stock, 'BucketedRSLoss')
    assert head.classifier_biases() and not any(bias.any() for bias in head.classifier_biases())
    lowered = small_head(stock, 'BucketedRSLoss', classifier_prior=0.01)
    assert all(bias[0].item() == pytest.approx(-4.595, abs=1e-3) for bias in lowered.classifier_biases())
    assert lowered.score_shift == 0


@EVERY_HEAD
def test_a_prior_changes_neither_losses_nor_gradients(stock):
    """Ranking losses do not see it, and matching takes it into account."""
    found = []
    for prior in (0.5, 0.01):
        head = small_head(stock, 'BucketedRSLoss', classifier_prior=prior)
        given = case(head, stock)
        with torch.no_grad():
            for logits in given.leaves[::2]:
                logits += math.log(prior / (1 - prior))
        found.append(losses_and_gradients(head, given))
    (losses, gradients), (lowered, of_lowered) = found
    assert any(gradient.any() for gradient in gradients[::2])
    torch.testing.assert_close(lowered, losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_lowered, gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('stock', DENOISING)
def test_classifiers_that_have_a_classification_loss_too_start_with_its_prior(stock):
    head = small_head(stock, 'BucketedRSLoss', loss_dn_cls=FOCAL)
    assert all(bias[0].item() == pytest.approx(-4.595, abs=1e-3) for bias in head.classifier_biases())
    assert head.score_shift == 0


@EVERY_HEAD
def test_losses_that_do_not_fit_are_named(stock):
    with pytest.raises(ValueError, match=f"RankBased{stock}: loss_cls must be a ranking loss.*type='{stock}'"):
        small_head(stock, 'FocalLoss', loss_cls=FOCAL)
    with pytest.raises(ValueError, match=f'RankBased{stock}: aLRPLoss is a box loss too'):
        small_head(stock, 'aLRPLoss')
    softmax = dict(type='HungarianAssigner', match_costs=[dict(type='ClassificationCost', weight=1.0)])
    with pytest.raises(ValueError, match=f'RankBased{stock}: ClassificationCost reads a softmax.*FocalLossCost'):
        small_head(stock, 'BucketedRSLoss', train_cfg=dict(assigner=softmax))
    with pytest.raises(ValueError, match=f"{stock} cannot train BucketedRSLoss.*use type='RankBased{stock}'"):
        small_head(stock, 'BucketedRSLoss', ranking=False)


# ---------------------------------------------------------------------------------------------------------------------
# Whole detectors, from stock configs


FAMILIES = ('detr', 'conditional_detr', 'dab_detr', 'deformable_detr', 'dino', 'ddq')


@pytest.mark.parametrize('file', configs(*FAMILIES), ids=lambda file: file.stem)
def test_every_stock_config_is_converted(file):
    stock = Config.fromfile(file)
    swap = swap_loss(stock)
    head = swap.cfg.model.bbox_head
    assert head.type == f'RankBased{stock.model.bbox_head.type}'
    assert head.loss_cls == dict(type='BucketedRSLoss', loss_weight=2.0)
    cost = swap.cfg.model.train_cfg.assigner.match_costs[0]
    assert cost.type == 'FocalLossCost' and cost.weight == 4.0
    assert swap.cfg.model.train_cfg.assigner.match_costs[1:] == stock.model.train_cfg.assigner.match_costs[1:]


@pytest.mark.medium
@EVERY_HEAD
def test_a_swapped_detector_trains_every_parameter(stock):
    detector = build(swap_loss(small_config(stock)).cfg.model).train()
    calls = []
    for module in detector.modules():
        if isinstance(module, RankingLoss):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    data = batch(detector)
    with as_on_an_accelerator():
        losses = losses_after_backward(detector, copy.deepcopy(data))
    assert len(calls) == 1, 'all sets are ranked in one call'
    prefixes = ['d0.', '']
    prefixes += ['enc_'] * (stock in ENCODER) + ['d0.dn_', 'dn_'] * (stock in DENOISING)
    if stock == 'DDQDETRHead':
        prefixes += ['aux_enc_aux_', *(f'{layer}_aux_aux_' for layer in range(NUM_LAYERS))]
    parts = ('loss_rank', 'loss_sort', 'loss_bbox', 'loss_iou')
    assert set(losses) == {prefix + part for prefix in prefixes for part in parts}
    assert all(losses[prefix + 'loss_rank'] > 0 for prefix in prefixes)
    detector.zero_grad()
    empty = losses_after_backward(detector, batch(detector, (0, 0)))
    assert not any(empty.values())


@pytest.mark.stack
@EVERY_HEAD
def test_matching_in_float16_has_finite_costs(stock):
    """In float16, the class cost of a logit of 14 would be infinite, and the assigner would raise an error."""
    head = small_head(stock, 'BucketedRSLoss')
    logits, boxes = (x.detach() for x in random_predictions(3, 2, 6))
    logits[0, 1, 2], logits[1, 0, 0] = 14.0, -20.0
    half, full = (
        head.match(logits.half().to(dtype), boxes.half().to(dtype), truth(), METAS)
        for dtype in (torch.half, torch.float)
    )
    assert len(full.positive) and torch.equal(half.positive, full.positive)


@pytest.mark.medium
def test_processes_stay_in_step_if_one_of_them_has_no_objects():
    """Every parameter gets a gradient on both; DDP does not look for unused ones."""
    small = [*map(small_config, STOCK), *map(small_sparse_roi_heads.small_config, small_sparse_roi_heads.STOCK)]
    models = [swap_loss(cfg).cfg.model for cfg in small]
    for stock in DENOISING:
        plain = copy.deepcopy(models[list(STOCK).index(stock)])
        plain.bbox_head.loss_dn_cls = FOCAL
        models.append(plain)
    for equal in on_processes(2, trained_in_step, build, batch, models):
        assert equal == [True] * len(models)


@pytest.mark.medium
@EVERY_HEAD
def test_inference_is_that_of_the_stock_head(stock):
    cfg = small_config(stock)
    ranked = build(swap_loss(cfg).cfg.model).eval()
    cfg.model.bbox_head.loss_cls = FOCAL  # DETR has a softmax; with sigmoid scores it has as many channels
    cfg.model.train_cfg.assigner.match_costs[0] = dict(type='FocalLossCost', weight=2.0)
    plain = build(cfg.model).eval()
    plain.load_state_dict(shake(ranked).state_dict())
    data = batch(plain, training=False)
    with torch.no_grad():
        results = [detector(**copy.deepcopy(data), mode='predict') for detector in (ranked, plain)]
    assert {'bboxes', 'scores', 'labels'} <= set(results[0][0].pred_instances.keys()) and same_predictions(*results)


@pytest.mark.medium
def test_distinct_queries_are_those_of_the_stock_loss():
    """After a step of the whole detector, whose decoder has chosen them."""
    cfg = small_config('DDQDETRHead')
    cfg.model.dqs_cfg.iou_threshold = 0.1
    detector = build(swap_loss(cfg).cfg.model).train()
    shake(shake(detector).bbox_head.reg_branches, scale=0.2)  # boxes overlap then after the first layer
    detector(**batch(detector), mode='loss')
    head, taken = detector.bbox_head, []

    def get_targets(scores, *_):
        taken.append(scores)
        raise StopIteration

    head.get_targets = get_targets
    logits, boxes = random_predictions(7, NUM_LAYERS, 2, detector.num_queries)
    masks = head.distinct_queries(NUM_LAYERS, 2)
    for layer in range(NUM_LAYERS):
        with pytest.raises(StopIteration):
            DDQDETRHead._loss_for_distinct_queries_single(head, logits[layer], boxes[layer], layer, truth(), METAS)
        for image, scores in enumerate(taken[layer]):
            own = logits[layer, image]
            assert torch.equal(scores, own if masks[layer] is None else own[masks[layer][image]])
    assert masks[0] is None and not masks[1].all() and masks[1].any(1).all()


@pytest.mark.medium
@pytest.mark.parametrize('stock', ['DETRHead', 'ConditionalDETRHead', 'DABDETRHead', 'DeformableDETRHead'])
def test_what_lies_in_the_padding_has_no_influence(stock):
    """On the neck's maps, because convolutions read across the border of an image; without proposals of an encoder."""
    cfg = small_config(stock)
    cfg.model.pop('as_two_stage', None)
    detector = build(swap_loss(cfg).cfg.model).eval()  # without dropout
    detector.training = True  # only the detector itself, which passes more to the head then
    data = batch(detector)
    assert [tuple(sample.img_shape) for sample in data['data_samples']] == [(128, 128), (128, 64)]
    maps = detector.extract_feat(data['inputs'])
    losses = []
    for garbage in (0.0, 100.0):
        spoiled = [level.clone() for level in maps]
        for level in spoiled:
            assert level.size(3) % 2 == 0
            level[1, :, :, level.size(3) // 2 :] += garbage
        detector.extract_feat = lambda *_, spoiled=spoiled: tuple(spoiled)
        losses.append(detector.loss(data['inputs'], data['data_samples']))
    assert losses[0] and all(value > 0 for value in losses[0].values())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
