"""CondInst, BoxInst and YOLACT: the box head ranks, and passes its positives to the mask head with their scores."""

from __future__ import annotations

import itertools

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, decode, entries_of, giou

pytest.importorskip('mmdet')

import swap_survey
from mmdet.models.utils import aligned_bilinear
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from small_dense_heads import at, distance_box, places, random_maps
from small_instance_heads import (
    METAS,
    NUM_CLASSES,
    STRIDES,
    bbox_head,
    dice_loss,
    dynamic_mask,
    features,
    mask_head,
)
from small_solo_heads import OBJECTS as PLAIN_OBJECTS
from small_solo_heads import objects as plain_objects
from torch.nn.functional import interpolate

from bucketed_losses.mmdet.swap import swap_loss

FAMILIES = {
    'CondInst': ('CondInstBboxHead', 'CondInstMaskHead'),
    'BoxInst': ('BoxInstBboxHead', 'BoxInstMaskHead'),
    'YOLACT': ('YOLACTHead', 'YOLACTProtonet'),
}
EACH = pytest.mark.parametrize('family', FAMILIES)
LOSSES = pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
TWO_LOSSES = pytest.mark.parametrize('loss', ['APLoss', 'BucketedRSLoss'])


def with_pairs(images):
    """What BoxInst reads of objects: which pixels have the colour of their neighbours, at every fourth pixel."""
    generator = torch.Generator().manual_seed(7)
    for image in images:
        image.pairwise_masks = (torch.rand(len(image), 8, 16, 16, generator=generator) > 0.5).float()
    return images


OBJECTS = with_pairs([image.new() for image in PLAIN_OBJECTS])


def objects(*images):
    return with_pairs(plain_objects(*images))


@pytest.fixture(autouse=True)
def iteration():
    """Half of the warm-up of BoxInst."""
    MessageHub.get_current_instance().update_info('iter', 5000)


def build(family, loss='BucketedRSLoss', **kwargs):
    boxes, masks = FAMILIES[family]
    return bbox_head(boxes, loss), mask_head(masks, loss is not None, **kwargs)


def random_outputs(head, inputs):
    """The outputs of a box head with random values; CondInst has None in place of centerness."""
    outputs = head(inputs)
    scales = itertools.chain([1.0, 3.0], itertools.repeat(1.0))
    uniform = 'Inst' in type(head).__name__
    return [
        maps if maps is None else random_maps(maps, scale, seed=2 + index, uniform=uniform and index == 1)
        for index, (maps, scale) in enumerate(zip(outputs, scales, strict=False))
    ]


def losses_of(heads, outputs=None, inputs=None, images=OBJECTS):
    """The losses of a detector with both heads, as ``SingleStageInstanceSegmentor`` computes them."""
    boxes, masks = heads
    inputs = features() if inputs is None else inputs
    outputs = boxes(inputs) if outputs is None else outputs
    losses = boxes.loss_by_feat(*outputs, images, METAS)
    infos = boxes.get_positive_infos()
    others = masks.loss_by_feat(
        *masks(inputs, infos), batch_gt_instances=images, batch_img_metas=METAS, positive_infos=infos
    )
    assert not set(losses) & set(others)
    return {**losses, **others}


def leaves():
    return tuple(level.requires_grad_() for level in features())


def rows_of(head, outputs):
    """Level, image, y, x and anchor, in the order of the labels, with logits, box and parameters of the mask."""
    num_anchors = 1 if 'Inst' in type(head).__name__ else 3
    for place in places(outputs[0]):
        parts = [at(maps, *place).reshape(num_anchors, -1) for maps in (outputs[0], outputs[1], outputs[-1])]
        for anchor in range(num_anchors):
            yield place, anchor, *(part[anchor] for part in parts)


def assigned(head, outputs):
    """Labels, their weights and target boxes in the order of :func:`rows_of`, by MMDetection."""
    sizes = [level.shape[-2:] for level in outputs[0]]
    if 'YOLACT' in type(head).__name__:
        anchors, flags = head.get_anchors(sizes, METAS, device='cpu')
        targets = head.get_targets(anchors, flags, OBJECTS, METAS)[:3]
        return [torch.cat([level.flatten(0, 1) for level in part]) for part in targets]
    points = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device='cpu')
    labels, distances, *_ = head.get_targets(points, OBJECTS)
    targets = [
        distance_box(level_points[index % len(level_points)], distance * stride)
        for stride, level_points, level in zip(STRIDES, points, distances, strict=True)
        for index, distance in enumerate(level)
    ]
    return torch.cat(labels), torch.ones(len(targets)), torch.stack(targets)


def box_of(head, place, anchor, prediction):
    """The predicted box: distances in strides from the middle of a cell, or deltas of an anchor."""
    level, _, y, x = place
    stride = STRIDES[level]
    if 'Inst' in type(head).__name__:
        return distance_box(torch.tensor([(x + 0.5) * stride, (y + 0.5) * stride]), prediction * stride)
    ratio = (0.5, 1.0, 2.0)[anchor]  # height by width
    width, height = 3 * stride / ratio**0.5, 3 * stride * ratio**0.5
    prior = torch.tensor(
        [x * stride - width / 2, y * stride - height / 2, x * stride + width / 2, y * stride + height / 2]
    )
    return decode(prior, prediction)


def condinst_mask_loss(place, kernel, prototypes, target):
    """Dice Loss; a cell of the map of masks has 8 pixels, locations are middles of cells, distances in 8 strides."""
    level, _, y, x = place
    cells = STRIDES[level] / 8
    middle = ((x + 0.5) * cells - 0.5, (y + 0.5) * cells - 0.5)
    mask = dynamic_mask(kernel, prototypes, middle, 8 * cells)
    return dice_loss(aligned_bilinear(mask[None, None], 2)[0, 0], target)


def yolact_mask_loss(coefficients, prototypes, target, box):
    """Cross-entropy of 16 x 16 pixels, those out of the box with one pixel around it at 0, by the area of the box."""
    left, top, right, bottom = (box / 64).tolist()
    target = interpolate(torch.as_tensor(target)[None, None].float(), (16, 16), mode='bilinear')[0, 0] > 0.5
    probabilities = sum(weight * channel for weight, channel in zip(coefficients, prototypes, strict=True)).sigmoid()
    total = 0.0
    for row in range(16):
        rows_inside = top * 16 - 1 <= row < bottom * 16 + 1
        for column in range(16):
            if rows_inside and left * 16 - 1 <= column < right * 16 + 1:
                probability = probabilities[row, column]
                total = total - (probability if target[row, column] else 1 - probability).log()
            else:
                total = total + 100.0 * float(target[row, column])
    return 6.125 * total / 256 / (right - left) / (bottom - top)


def slow_losses(name, heads, outputs, inputs, keep=lambda masks: masks):
    """Values and a total with their gradient; ``keep`` chooses the masks that are trained on."""
    boxes_head, masks_head = heads
    yolact = 'YOLACT' in type(boxes_head).__name__
    prototypes = (
        masks_head.protonet(inputs[0])
        if yolact
        else [masks_head.mask_feature_head(tuple(inputs))[image] for image in range(2)]
    )
    labels, label_weights, targets = assigned(boxes_head, outputs)
    entries, boxes, masks = [], [], []
    for index, (place, anchor, scores, prediction, parameters) in enumerate(rows_of(boxes_head, outputs)):
        label, iou, image = int(labels[index]), None, place[1]
        if label < NUM_CLASSES:
            own = (OBJECTS[image].bboxes - targets[index]).abs().sum(dim=1).argmin().item()
            assert torch.allclose(OBJECTS[image].bboxes[own], targets[index], atol=1e-3)
            loss, iou = giou(box_of(boxes_head, place, anchor, prediction), targets[index])
            weight = scores.detach().sigmoid().max()
            boxes.append((weight, {'loss_bbox': 2.0 * loss}))
            target = OBJECTS[image].masks.masks[own]
            if yolact:
                mask_loss = yolact_mask_loss(parameters, prototypes[image], target, OBJECTS[image].bboxes[own])
            else:
                mask_loss = condinst_mask_loss(place, parameters, prototypes[image], target)
            masks.append(((image, own), weight, mask_loss))
        entries += entries_of(scores, label, iou, () if label_weights[index] else range(NUM_CLASSES))
    assert len(masks) > 4
    losses, total = combined_losses(name, entries, [boxes])
    masks = keep(masks)
    mask = sum(weight * loss for _, weight, loss in masks) / sum(weight for _, weight, _ in masks)
    if 'RS' in name:  # balanced on its own
        mask = mask * (losses['loss_rank'] + losses['loss_sort']) / mask.detach()
    return {**losses, 'loss_mask': float(mask.detach())}, total + mask


@LOSSES
@pytest.mark.parametrize('family', ['CondInst', 'YOLACT'])
def test_losses_equal_a_slow_computation(family, loss):
    heads, inputs = build(family, loss), leaves()
    outputs = random_outputs(heads[0], inputs)
    losses = losses_of(heads, outputs, inputs)
    expected, total = slow_losses(loss, heads, outputs, inputs)
    if family == 'YOLACT':  # the semantic branch is that of MMDetection
        stock = mask_head('YOLACTProtonet', ranked=False)
        infos = heads[0].get_positive_infos()
        segm_preds = heads[1].segm_branch(inputs[0])
        others = stock.loss_by_feat(heads[1](inputs, infos)[0], segm_preds, OBJECTS, METAS, positive_infos=infos)[
            'loss_segm'
        ]
        expected['loss_segm'], total = float(sum(others).detach()), total + sum(others)
    maps = [level for part in outputs if part is not None for level in part]
    assert_equal_losses(losses, [*maps, *inputs], expected, total)


def test_the_best_positive_of_each_object():
    """CondInst's ``topk_masks_per_img`` takes those with the highest scores, with their weights."""
    heads, inputs = build('CondInst', topk_masks_per_img=1), leaves()
    outputs = random_outputs(heads[0], inputs)

    def best(masks):
        order = sorted(masks, key=lambda mask: float(mask[1]))
        return list({owner: (owner, weight, loss) for owner, weight, loss in order}.values())

    losses = losses_of(heads, outputs, inputs)
    expected, total = slow_losses('BucketedRSLoss', heads, outputs, inputs, best)
    maps = [level for part in outputs if part is not None for level in part]
    assert_equal_losses(losses, [*maps, *inputs], expected, total)


@pytest.mark.parametrize('family', ['CondInst', 'YOLACT'])
def test_masks_that_are_drawn_keep_their_weights(family):
    heads = build(family, 'APLoss', max_masks_to_train=2)
    outputs = random_outputs(heads[0], features())
    torch.manual_seed(5)
    drawn = losses_of(heads, outputs)['loss_mask']
    infos = heads[0].get_positive_infos()
    torch.manual_seed(5)
    rows = [torch.randperm(len(info))[:2] for info in infos]
    assert all(len(info) > 2 for info in infos)
    kept = [info[index] for info, index in zip(infos, rows, strict=True)]
    masks = heads[1](features(), kept)
    again = heads[1].loss_by_feat(*masks, batch_gt_instances=OBJECTS, batch_img_metas=METAS, positive_infos=kept)
    torch.testing.assert_close(again['loss_mask'], drawn)


@LOSSES
def test_losses_of_boxinst(loss):
    """Scores and boxes as CondInst's; both losses of masks are MMDetection's, scaled together."""
    heads, inputs = build('BoxInst', loss), features()
    outputs = random_outputs(heads[0], inputs)
    losses = losses_of(heads, outputs, inputs)
    expected, _ = slow_losses(loss, heads, outputs, inputs)
    del expected['loss_mask']
    assert {name: losses[name].item() for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    infos, stock = heads[0].get_positive_infos(), mask_head('BoxInstMaskHead', ranked=False)
    others = stock.loss_by_feat(*heads[1](inputs, infos), OBJECTS, METAS, infos)
    assert set(others) == {'loss_mask_project', 'loss_mask_pairwise'} and all(value > 0 for value in others.values())
    factor = (losses['loss_rank'] + losses['loss_sort']) / sum(others.values()) if 'RS' in loss else 1.0
    for name, value in others.items():
        torch.testing.assert_close(losses[name], value * factor)


@pytest.mark.parametrize('loss', ['aLRPLoss', 'DRLoss'])
@EACH
def test_alrp_and_dr_loss(family, loss):
    losses = losses_of(build(family, loss))
    assert {'loss_cls', 'loss_bbox'} < set(losses) and all(value > 0 for value in losses.values())


@TWO_LOSSES
@EACH
def test_every_parameter_gets_a_gradient(family, loss):
    heads = build(family, loss)
    losses = losses_of(heads)
    assert {'loss_rank', 'loss_bbox', *(['loss_sort'] if 'RS' in loss else [])} < set(losses)
    sum(losses.values()).backward()
    assert not [key for head in heads for key, parameter in head.named_parameters() if parameter.grad is None]


@TWO_LOSSES
@EACH
def test_without_objects_losses_are_zero_and_connected(family, loss):
    heads = build(family, loss)
    losses = losses_of(heads, images=objects(([], []), ([], [])))
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for head in heads for p in head.parameters())


@EACH
def test_one_image_without_objects(family):
    losses = losses_of(build(family), images=[objects(([], []))[0], OBJECTS[1]])
    assert all(value > 0 for value in losses.values())


@EACH
def test_the_mask_head_gets_the_positives_of_the_stock_head(family):
    name = FAMILIES[family][0]
    ours, theirs = bbox_head(name), bbox_head(name, None)
    outputs = random_outputs(ours, features())
    ours.loss_by_feat(*outputs, OBJECTS, METAS)
    if family == 'YOLACT':  # its classifier has a background class
        cls_scores = [level.new_zeros(2, 3 * (NUM_CLASSES + 1), *level.shape[2:]) for level in outputs[0]]
        theirs.loss_by_feat(cls_scores, *outputs[1:], OBJECTS, METAS)
    else:
        centernesses = [level[:, :1] * 0 for level in outputs[0]]
        theirs.loss_by_feat(*outputs[:2], centernesses, outputs[3], OBJECTS, METAS)
    for mine, other, image in zip(ours.get_positive_infos(), theirs.get_positive_infos(), range(2), strict=True):
        assert set(mine.keys()) == {*other.keys(), 'weights'} and len(mine) > 2
        assert all(torch.equal(mine[key], value) for key, value in other.items())
        rows = torch.cat([level[image].permute(1, 2, 0).reshape(-1, NUM_CLASSES) for level in outputs[0]])
        assert torch.equal(mine.weights, rows[mine.pos_inds].sigmoid().amax(dim=1).detach())


def test_anchors_in_the_padding_of_an_image_are_not_counted():
    """MMDetection's head takes the coefficients of other anchors then."""
    head = bbox_head('YOLACTHead')
    outputs = random_outputs(head, features())
    metas = [{**METAS[0], 'pad_shape': (64, 48)}, METAS[1]]
    head.loss_by_feat(*outputs, OBJECTS, metas)
    info = head.get_positive_infos()[0]
    anchors, flags = head.get_anchors([level.shape[-2:] for level in outputs[0]], metas, device='cpu')
    labels = torch.cat([level[0] for level in head.get_targets(anchors, flags, OBJECTS, metas)[0]])
    positive = (labels < NUM_CLASSES).nonzero().squeeze(1)
    assert len(positive) > 0 and not torch.cat(flags[0])[: positive.max()].all()
    coefficients = torch.cat([level[0].permute(1, 2, 0).reshape(-1, 4) for level in outputs[2]])
    assert torch.equal(info.coeffs, coefficients[positive])


@EACH
def test_inference_is_that_of_the_stock_heads(family):
    stock = dict(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True)) if family == 'YOLACT' else {}
    ours = [head.eval() for head in build(family)]
    theirs = [bbox_head(FAMILIES[family][0], None, **stock).eval(), mask_head(FAMILIES[family][1], False).eval()]
    for mine, other in zip(ours, theirs, strict=True):
        missing, unexpected = other.load_state_dict(mine.state_dict(), strict=False)
        assert not unexpected and all('centerness' in key for key in missing)
    found = []
    outputs = ours[0](features())
    for boxes, masks in (ours, theirs):
        results = boxes.predict_by_feat(*outputs, batch_img_metas=METAS, rescale=False)
        predictions = masks(features(), results)
        found.append(masks.predict_by_feat(*predictions, results_list=results, batch_img_metas=METAS, rescale=True))
    for mine, other in zip(*found, strict=True):
        assert len(mine) > 0 and (mine.scores > 0.4).all()
        assert set(mine.keys()) == set(other.keys()) > {'masks'}
        assert all(torch.equal(mine[key], value) for key, value in other.items())


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@EACH
def test_outputs_that_are_not_finite_reach_the_losses(family, bad):
    heads = build(family)
    outputs = [None if maps is None else [m.detach() for m in maps] for maps in random_outputs(heads[0], features())]
    for index, maps in enumerate(outputs):
        if maps is None:
            continue
        spoiled = list(outputs)
        spoiled[index] = [torch.full_like(level, bad) for level in maps]
        assert not sum(losses_of(heads, spoiled).values()).isfinite(), index
    inputs = tuple(torch.full_like(level, bad) for level in features())
    spoiled = losses_of(heads, outputs, inputs)
    assert not any(value.isfinite() for name, value in spoiled.items() if name.startswith('loss_mask'))


@EACH
def test_bfloat16_autocast_keeps_the_loss_in_float32(family):
    heads = build(family)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = losses_of(heads)
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()


@pytest.mark.stack
def test_masks_of_yolact_are_combined_in_float32():
    """In float16, the sigmoid of a logit of 9 is 1, and the gradient of its cross-entropy is not a number."""
    head = mask_head('YOLACTProtonet').train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        prototypes = head.protonet(features()[0])
        info = InstanceData(coeffs=torch.full((1, prototypes.size(1)), 0.3))
        masks, _ = head(features(), [info, info])
    wanted = (prototypes.float().permute(0, 2, 3, 1) @ info.coeffs.t()).sigmoid()
    for image, mask in enumerate(masks):
        assert mask.dtype == torch.float32
        torch.testing.assert_close(mask, wanted[image])


@EACH
def test_a_mask_head_needs_a_ranking_box_head(family):
    boxes, masks = FAMILIES[family]
    heads = bbox_head(boxes, None), mask_head(masks)
    with pytest.raises(ValueError, match=f'RankBased{masks}: bbox_head must be one of this package'):
        losses_of(heads)


@EACH
def test_other_losses_are_refused(family):
    with pytest.raises(ValueError, match='loss_cls must be a ranking loss'):
        build(family, dict(type='FocalLoss', use_sigmoid=True))


@pytest.mark.parametrize(
    'name', ['condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py', 'yolact/yolact_r50_1xb8-55e_coco.py']
)
def test_stock_configs_train_a_step(name):
    outcome = swap_survey.outcome(swap_survey.CONFIGS / name)
    assert outcome.what == swap_survey.TRAINED, outcome
    assert {'loss_rank', 'loss_sort', 'loss_bbox', 'loss_mask'} <= set(outcome.detail.split())


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('boxinst/boxinst_r50_fpn_ms-90k_coco.py', 'both mask losses are scaled to the ranking loss together'),
        ('yolact/yolact_r50_1xb8-55e_coco.py', 'loss_segm keeps its weight'),
        ('yolact/yolact_r50_1xb8-55e_coco.py', 'the published RS-YOLACT trains masks with Dice Loss'),
        ('yolact/yolact_r50_1xb8-55e_coco.py', 'use_ohem stays in the config but has no effect'),
        ('yolact/yolact_r50_1xb8-55e_coco.py', 'neg_pos_ratio of train_cfg has no effect: all anchors are ranked'),
    ],
)
def test_what_is_kept_or_dropped_is_said(name, words):
    notes = swap_loss(Config.fromfile(swap_survey.CONFIGS / name, import_custom_modules=False)).notes
    assert any(words in note for note in notes), notes


def test_masks_are_said_to_be_scaled_only_if_they_are():
    cfg = Config.fromfile(swap_survey.CONFIGS / 'boxinst/boxinst_r50_fpn_ms-90k_coco.py', import_custom_modules=False)
    for loss in ('ap', 'alrp', 'dr'):
        notes = swap_loss(cfg, loss).notes
        assert any('masks are not weighted by scores' in note for note in notes), notes
        assert not any('scaled to the ranking loss' in note for note in notes), notes
