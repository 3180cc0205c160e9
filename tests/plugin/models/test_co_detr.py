"""Co-DETR and BRS-DETR: their parts, the base against MMDetection's, inference, and configs that do not fit."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import losses_after_backward
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from small_co_detr import (
    AUXILIARY,
    BASELINE,
    BOTH,
    BRS,
    NUM_CLASSES,
    batch,
    build,
    load,
    without_auxiliary_heads,
)
from small_query_heads import same_predictions, shake

pytestmark = pytest.mark.medium


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


def test_inference_is_that_of_the_baseline():
    """The predictions of the query head, of the same weights."""
    model = without_auxiliary_heads(load(BRS))
    ranked, baseline = (build({**model, 'bbox_head': load(config).bbox_head}).eval() for config in (BRS, BASELINE))
    baseline.load_state_dict(shake(ranked).state_dict())
    data = batch(baseline, training=False)
    with torch.no_grad():
        results = [detector(**copy.deepcopy(data), mode='predict') for detector in (ranked, baseline)]
    assert all(len(sample.pred_instances) > 0 for sample in results[0])
    assert {'bboxes', 'scores', 'labels'} <= set(results[0][0].pred_instances.keys()) and same_predictions(*results)


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
        if last == 'type':
            part.pop('classifier_prior', None)  # an argument of ranking heads
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


def test_classifiers_of_ranking_losses_start_at_zero_or_at_the_prior_of_the_config():
    default, published, baseline = load(BRS), build(load(BRS)).bbox_head, build(load(BASELINE)).bbox_head
    assert default.bbox_head.pop('classifier_prior') == 0.01
    brs = build(default).bbox_head
    assert not any(branch.bias.any() for branch in brs.cls_branches)
    assert brs.score_shift == pytest.approx(-4.595, abs=1e-3)
    assert published.cls_branches[0].bias[0].item() == pytest.approx(brs.score_shift)
    assert published.score_shift == 0, 'matching reads the logits as they are'
    assert all(branch.bias.max() < -4 for branch in baseline.cls_branches)


@BOTH
def test_under_autocast_the_rpn_proposes_in_float32(config, monkeypatch):
    """MMCV's NMS fails in float16 if an image has 10,000 boxes or more, and in bfloat16 on a CPU."""
    detector = build(load(config)).train()
    propose, seen = detector.rpn_head.predict_by_feat, []

    def record(cls_scores, bbox_preds, **kwargs):
        seen.extend(level.dtype for level in (*cls_scores, *bbox_preds))
        return propose(cls_scores, bbox_preds, **kwargs)

    monkeypatch.setattr(detector.rpn_head, 'predict_by_feat', record)
    batch = detector.data_preprocessor(demo_mm_inputs(2, [[3, 64, 64]] * 2, num_classes=NUM_CLASSES), training=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        maps = [torch.randn(2, 256, size, size).bfloat16() for size in (16, 8, 4, 2, 1)]
        losses, proposals = detector.rpn_loss_and_predict(maps, batch['data_samples'])
    assert set(seen) == {torch.float32} and len(seen) == 10
    assert all(len(image) for image in proposals)
    assert {'loss_rpn_cls', 'loss_rpn_bbox'} <= set(losses) or 'loss_rpn_rank' in losses
