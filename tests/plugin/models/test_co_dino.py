"""Co-DINO and BRS Co-DINO: the base against MMDetection's DINO, losses against loops, and groups that see no other."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import losses_after_backward
from detr_reference import Query, slow_query_losses
from mmdet.models.detectors import DINO
from mmengine.config import Config
from mmengine.registry import init_default_scope
from small_co_detr import (
    AUXILIARY,
    BRS_CO_DINO,
    CO_DINO,
    ROOT,
    batch,
    build,
    load,
    without_auxiliary_heads,
)
from small_query_heads import METAS, NUM_CLASSES, case, one_of_two, random_predictions, shake, small_head, truth

from bucketed_losses.core.devices import as_on_an_accelerator
from bucketed_losses.mmdet.models.dense_heads import QuerySet, QueryTargets
from bucketed_losses.mmdet.models.losses import RankingLoss
from bucketed_losses.mmdet.swap import swap_loss

BOTH = pytest.mark.parametrize('config', [CO_DINO, BRS_CO_DINO])
SIZES = ((64, 64), (64, 48))


def small_batch(detector, num_items=(2, 3), training=True):
    return batch(detector, num_items, SIZES, training)


# ---------------------------------------------------------------------------------------------------------------------
# The head


@pytest.mark.parametrize('accelerator', [False, True])
@pytest.mark.parametrize('objects', [truth, one_of_two])
@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_of_all_sets_equal_loops(loss, objects, accelerator):
    """Decoder layers, proposals and denoising queries, matched by trying all assignments, and auxiliary queries."""
    head = small_head('CoDINOHead', loss)
    given = case(head, 'DINOHead', objects())
    auxiliary = auxiliary_sets(lambda_1=3.0)
    with as_on_an_accelerator() if accelerator else torch.enable_grad():
        fast = head.loss_by_feat(*given.arguments, auxiliary=auxiliary)
    slow, total = {}, 0
    for prefix, queries in given.sets.items():
        values, value = slow_query_losses(loss, queries, class_weight=2.0)
        slow |= {prefix + name: number for name, number in values.items()}
        total = total + value
    for one in auxiliary:
        values, value = slow_query_losses(loss, as_queries(one), class_weight=2.0)
        slow |= {one.prefix + name: 3 * number for name, number in values.items()}
        total = total + 3 * value
    assert {name: value.item() for name, value in fast.items()} == pytest.approx(slow, rel=1e-4, abs=1e-5)
    leaves = [*given.leaves, *(leaf for one in auxiliary for leaf in (one.logits, one.boxes))]
    expected = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(torch.autograd.grad(sum(fast.values()), leaves), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('loss', ['FocalLoss', 'QualityFocalLoss'])
def test_the_stock_head_adds_the_losses_of_auxiliary_queries_to_those_of_dino(loss):
    loss_cls = dict(type=loss, use_sigmoid=True, loss_weight=2.0)
    head, dino = (small_head(name, loss, ranking=False, loss_cls=loss_cls) for name in ('CoDINOHead', 'DINOHead'))
    given, auxiliary = case(head, 'DINOHead'), auxiliary_sets(lambda_1=3.0)
    losses = head.loss_by_feat(*given.arguments, auxiliary=auxiliary)
    expected = dino.loss_by_feat(*given.arguments)
    for one in auxiliary:
        values, _ = slow_query_losses(loss, as_queries(one), class_weight=2.0)
        expected |= {one.prefix + name: torch.tensor(3 * value) for name, value in values.items()}
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)


def test_predictions_of_auxiliary_queries_that_are_not_finite_make_the_loss_nan():
    head = small_head('CoDINOHead', 'BucketedRSLoss')
    given = case(head, 'DINOHead')
    for spoiled in (0, 1):
        auxiliary = auxiliary_sets()
        with torch.no_grad():
            auxiliary[0][1 + spoiled][0, 0] = torch.nan
        assert sum(head.loss_by_feat(*given.arguments, auxiliary=auxiliary).values()).isnan()


def test_nms_lowers_the_scores_of_overlapping_boxes_of_a_class():
    """Two boxes with an IoU of 0.8 and a third elsewhere; soft NMS multiplies the second score by 1 - IoU."""
    test_cfg = dict(max_per_img=4, nms=dict(type='soft_nms', iou_threshold=0.5))
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.32], [0.15, 0.15, 0.1, 0.1], [0.5, 0.5, 0.4, 0.4]])
    logits = torch.full((4, NUM_CLASSES), -20.0)
    logits[0, 1], logits[1, 1], logits[2, 1], logits[3, 2] = 3.0, 2.0, 1.0, 0.0
    for ranking in (False, True):
        loss = 'BucketedRSLoss' if ranking else 'FocalLoss'
        head = small_head('CoDINOHead', loss, ranking=ranking, test_cfg=test_cfg)
        found = head._predict_by_feat_single(logits, boxes, dict(img_shape=(100, 100)), rescale=False)
        first, second, third, other = torch.tensor([3.0, 2.0, 1.0, 0.0]).sigmoid().tolist()
        assert found.scores.tolist() == pytest.approx([first, third, other, second * (1 - 0.8)], abs=1e-5)
        assert found.labels.tolist() == [1, 1, 2, 1]
        assert found.bboxes[3].tolist() == pytest.approx([30, 34, 70, 66], abs=1e-4)
    head.test_cfg = dict(max_per_img=4)
    assert head._predict_by_feat_single(logits, boxes, dict(img_shape=(100, 100)), rescale=False).scores.tolist() == [
        first, second, third, other,
    ]  # fmt: skip


def auxiliary_sets(lambda_1=1.0):
    """Two groups of other sizes; the second has an ignored query."""
    sets = []
    for group, num in enumerate((5, 3)):
        logits, boxes = random_predictions(10 + group, 2, num)
        labels = torch.full((2, num), NUM_CLASSES)
        labels[0, :2], labels[1, 1] = torch.tensor([1, 3]), 2
        weights = torch.ones(2, num)
        weights[1, 2] = 1 - group
        targets = QueryTargets(labels, weights, boxes.detach() + torch.tensor([0.05, -0.03, 0.04, 0.08]))
        sets.append(QuerySet(f'aux{group}.', logits, boxes, targets, lambda_1))
    return sets


def as_queries(one):
    return [
        Query(
            one.logits[i, q],
            one.boxes[i, q],
            int(one.targets.labels[i, q]),
            one.targets.boxes[i, q],
            METAS[i]['img_shape'][::-1],
            bool(one.targets.weights[i, q] == 0),
        )
        for i in range(one.logits.shape[0])
        for q in range(one.logits.shape[1])
    ]


# ---------------------------------------------------------------------------------------------------------------------
# The detector


@pytest.mark.medium
@BOTH
def test_every_part_is_logged_and_every_parameter_trained(config):
    detector = build(load(config)).train()
    losses = losses_after_backward(detector, small_batch(detector))
    cls = ('loss_cls',) if config == CO_DINO else ('loss_rank', 'loss_sort')
    prefixes = ['enc_', *(f'{layer}{kind}' for layer in ('d0.', '') for kind in ('', 'dn_'))]
    prefixes += [f'aux{head}.{layer}' for head in (0, 1) for layer in ('d0.', '')]
    queries = {prefix + part for prefix in prefixes for part in (*cls, 'loss_bbox', 'loss_iou')}
    heads = {f'{head}.{part}' for head in ('roi0', 'atss1') for part in (*cls, 'loss_bbox')}
    heads |= {'atss1.loss_centerness'} if config == CO_DINO else set()
    assert queries | heads == {name for name in losses if 'rpn' not in name and 'acc' not in name}
    assert all(losses[name] > 0 for name in queries if not name.endswith('sort'))
    dead = [n for n, p in detector.named_parameters() if p.requires_grad and n.startswith('aux') and not p.grad.any()]
    assert not dead
    detector.zero_grad()
    empty = losses_after_backward(detector, small_batch(detector, (0, 0)))
    assert config == CO_DINO or not any(empty.values())


@pytest.mark.medium
def test_without_auxiliary_heads_it_is_mmdetections_dino():
    model = without_auxiliary_heads(load(CO_DINO))
    ours = shake(build(model)).train()
    theirs = build(dict(model, type='DINO', bbox_head=dict(model['bbox_head'], type='DINOHead'))).train()
    assert type(theirs) is DINO and theirs.load_state_dict(ours.state_dict())
    data, found = small_batch(ours), []
    for detector in (ours, theirs):
        torch.manual_seed(3)  # of the noise
        losses = losses_after_backward(detector, copy.deepcopy(data))
        found.append((losses, {name: p.grad for name, p in detector.named_parameters() if p.requires_grad}))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(grad, found[1][1][name]) for name, grad in found[0][1].items())


@pytest.mark.medium
@BOTH
def test_no_group_of_queries_sees_another(config):
    """What the decoder makes of each group is bitwise the same if the queries of another group are different."""
    detector = shake(build(load(config))).train()
    data = small_batch(detector)
    num_matched = detector.num_queries

    def outputs(changed=None):
        """The decoder's states by group: matched queries, each group of denoising queries, each auxiliary group."""
        calls, groups = [], []
        generator, embedding, decoder = detector.dn_query_generator, detector.auxiliary_queries, detector.decoder
        collate, embed, decode = generator.collate_dn_queries, embedding.forward, decoder.forward

        def noisy(query, part):
            query = query.clone()
            query[:, part] += torch.linspace(-1, 2, query.size(-1))
            return query

        def collated(*args):
            query, boxes = collate(*args)
            num_groups = args[-1]
            size = query.size(1) // num_groups
            groups[:] = [slice(i * size, (i + 1) * size) for i in range(num_groups)]
            kind, index = changed or (None, None)
            return noisy(query, groups[index]) if kind == 'dn' else query, boxes

        def embedded(index, *args):
            query = embed(index, *args)['query']
            return dict(query=noisy(query, slice(None)) if changed == ('aux', index) else query)

        def decoded(query, **kwargs):
            if changed == ('matched', 0) and not calls:
                query = noisy(query, slice(-num_matched, None))
            states, references = decode(query=query, **kwargs)
            calls.append(states)
            return states, references

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generator, 'collate_dn_queries', collated)
            patch.setattr(embedding, 'forward', embedded)
            patch.setattr(decoder, 'forward', decoded)
            torch.manual_seed(5)
            detector.loss(data['inputs'], copy.deepcopy(data['data_samples']))
        main, *auxiliary = calls
        found = {('matched', 0): main[:, :, -num_matched:]}
        found |= {('dn', i): main[:, :, part] for i, part in enumerate(groups)}
        return found | {('aux', i): states for i, states in enumerate(auxiliary)}

    with torch.no_grad():
        before = outputs()
        assert {kind for kind, _ in before} == {'matched', 'dn', 'aux'} and len(before) >= 5
        for changed in before:
            after = outputs(changed)
            for group, states in before.items():
                # Denoising queries read the matched ones, in DINO too, but not the reverse.
                seen = group == changed or (group[0], changed[0]) == ('dn', 'matched')
                assert torch.equal(states, after[group]) != seen, f'{group}, {changed} changed'


@pytest.mark.medium
def test_all_sets_of_queries_are_ranked_in_one_call():
    detector = build(load(BRS_CO_DINO)).train()
    calls = []
    for name, module in detector.named_modules():
        if isinstance(module, RankingLoss):
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    with as_on_an_accelerator():
        detector(**small_batch(detector), mode='loss')
    assert sorted(calls) == [
        'bbox_head.loss_cls', 'dense_heads.0.loss_cls', 'roi_heads.0.bbox_head.loss_cls', 'rpn_head.loss_cls',
    ]  # fmt: skip


@pytest.mark.medium
def test_inference_is_that_of_dino():
    model = load(BRS_CO_DINO)
    model.test_cfg.pop('nms')
    ranked = shake(build(model)).eval()
    stock = without_auxiliary_heads(load(CO_DINO))
    stock['test_cfg'].pop('nms')
    dino = build(dict(stock, type='DINO', bbox_head=dict(stock['bbox_head'], type='DINOHead'))).eval()
    extra = dino.load_state_dict(ranked.state_dict(), strict=False)
    assert not extra.missing_keys
    assert {name.split('.')[0] for name in extra.unexpected_keys} == {*AUXILIARY, 'downsample', 'auxiliary_queries'}
    data = small_batch(ranked, training=False)
    with torch.no_grad():
        mine, theirs = (detector(**copy.deepcopy(data), mode='predict') for detector in (ranked, dino))
    for one, other in zip(mine, theirs, strict=True):
        assert all(
            torch.equal(one.pred_instances[key], other.pred_instances[key]) for key in ('bboxes', 'scores', 'labels')
        )


@pytest.mark.medium
@pytest.mark.parametrize('head', ['roi0', 'atss1'])
def test_an_auxiliary_head_can_be_evaluated(head):
    detector = shake(build(load(CO_DINO, **{'test_cfg.head': head}))).eval()
    with torch.no_grad():
        results = detector(**small_batch(detector, training=False), mode='predict')
    assert all(len(result.pred_instances) > 0 for result in results)


@pytest.mark.parametrize('data', ['bccd', 'cards', 'shapes'])
def test_co_dino_becomes_brs_co_dino(data):
    init_default_scope('mmdet')
    stock, by_hand = (
        Config.fromfile(ROOT / f'configs/{data}/co-dino_efficientnet-lite0_{loss}_1xb4-12e_{data}.py').model
        for loss in ('qfl', 'brs')
    )
    swapped = swap_loss(dict(model=stock)).cfg.model
    for loss in (swapped.roi_heads.bbox_head.loss_bbox, swapped.dense_heads.loss_bbox):
        loss.pop('loss_weight')  # it was on decoded boxes and stays; balanced, its weight cancels
    assert swapped == by_hand and swapped.bbox_head.type == 'RankBasedCoDINOHead'
    assert swap_loss(Config.fromfile(ROOT / CO_DINO)).cfg.model.bbox_head.type == 'RankBasedCoDINOHead'


def test_errors_name_the_detector():
    with pytest.raises(ValueError, match=r"CoDINO: all heads must have the same num_classes, got 5 .*'atss1': 7"):
        build(load(CO_DINO, **{'dense_heads.num_classes': 7}))
    with pytest.raises(ValueError, match=r"CoDINOHead cannot train BucketedRSLoss.*type='RankBasedCoDINOHead'"):
        small_head('CoDINOHead', 'BucketedRSLoss', ranking=False)
    with pytest.raises(ValueError, match=r"RankBasedCoDINOHead: loss_cls must be a ranking loss.*type='CoDINOHead'"):
        small_head('CoDINOHead', 'FocalLoss')
