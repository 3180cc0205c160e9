"""RTMDet-Ins: boxes are ranked as by RTMDet, and the masks of the positives are weighted by their scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

import swap_survey
from small_dense_heads import at, distance_box, places, random_maps
from small_instance_heads import METAS, NUM_CLASSES, STRIDES, bbox_head, dice_loss, dynamic_mask, features
from small_solo_heads import OBJECTS, objects
from torch.nn.functional import interpolate

STOCK = ('RTMDetInsHead', 'RTMDetInsSepBNHead')
EACH = pytest.mark.parametrize('stock', STOCK)


def loss_of(head, outputs=None, images=OBJECTS, metas=METAS):
    outputs = head(features()) if outputs is None else outputs
    return head.loss_by_feat(*outputs, images, metas)


def random_outputs(head):
    """Logits, distances in pixels, kernels and mask features with random values."""
    cls_scores, bbox_preds, kernels, mask_feat = head(features())
    return (
        random_maps(cls_scores),
        random_maps(bbox_preds, 20.0, seed=3, uniform=True),
        random_maps(kernels, seed=4),
        random_maps([mask_feat], seed=5)[0],
    )


def with_tensors(images=OBJECTS):
    masks = [image.masks.to_tensor(torch.bool, 'cpu') for image in images]
    return [image.new(**{**dict(image.items()), 'masks': own}) for image, own in zip(images, masks, strict=True)]


def all_maps(outputs):
    return [*itertools.chain(*outputs[:3]), outputs[3]]


def predicted_box(bbox_preds, place):
    level, _, y, x = place
    return distance_box(torch.tensor([x, y]).float() * STRIDES[level], at(bbox_preds, *place))


def assignments(head, cls_scores, bbox_preds, metas=METAS):
    """Labels, their weights and target boxes in the order of :func:`places`."""
    anchors, flags = head.get_anchors([level.shape[-2:] for level in cls_scores], metas, device='cpu')
    scores = [level.permute(0, 2, 3, 1).reshape(2, -1, NUM_CLASSES) for level in cls_scores]
    boxes = [[], []]
    for place in places(bbox_preds):
        boxes[place[1]].append(predicted_box(bbox_preds, place).detach())
    boxes = torch.stack([torch.stack(image) for image in boxes])
    _, *targets, _, _ = head.get_targets(torch.cat(scores, 1), boxes, anchors, flags, with_tensors(), metas)
    return [torch.cat([level.flatten(0, 1) for level in part]) for part in targets]


def slow_mask_loss(outputs, place, target):
    """Dice Loss of a positive; a cell of the map of masks has 8 pixels, and distances are in 8 strides."""
    level, image, y, x = place
    cells = STRIDES[level] / 8
    mask = dynamic_mask(at(outputs[2], *place), outputs[3][image], (x * cells, y * cells), 8 * cells)
    mask = interpolate(mask[None, None], scale_factor=2, mode='bilinear')[0, 0]
    return 2.0 * dice_loss(mask, target)


def slow_losses(name, head, outputs, metas=METAS):
    cls_scores, bbox_preds = outputs[:2]
    labels, weights, targets = assignments(head, cls_scores, bbox_preds, metas)
    entries, boxes, masks = [], [], []
    for index, place in enumerate(places(cls_scores)):
        scores, label, iou = at(cls_scores, *place), int(labels[index]), None
        if label < NUM_CLASSES:
            objects_of_image = OBJECTS[place[1]]
            own = (objects_of_image.bboxes == targets[index]).all(dim=1).nonzero().item()
            loss, iou = giou(predicted_box(bbox_preds, place), targets[index])
            weight = scores.detach().sigmoid().max()
            boxes.append((weight, {'loss_bbox': 2.0 * loss}))
            masks.append(weight * slow_mask_loss(outputs, place, objects_of_image.masks.masks[own]))
        entries += entries_of(scores, label, iou, () if weights[index] else range(NUM_CLASSES))
    assert len(masks) > 4
    losses, total = combined_losses(name, entries, [boxes])
    mask = sum(masks) / sum(weight for weight, _ in boxes)
    if 'RS' in name:  # balanced on its own
        mask = mask * (losses['loss_rank'] + losses['loss_sort']) / mask.detach()
    return {**losses, 'loss_mask': float(mask.detach())}, total + mask


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
@EACH
def test_losses_equal_a_slow_computation(stock, loss):
    head = bbox_head(stock, loss)
    outputs = random_outputs(head)
    assert_equal_losses(loss_of(head, outputs), all_maps(outputs), *slow_losses(loss, head, outputs))


def test_points_in_the_padding_of_an_image_are_left_out():
    """The sampler does not count them, and MMDetection's head takes the kernels of other points then."""
    metas = [{**METAS[0], 'pad_shape': (64, 32)}, METAS[1]]
    head = bbox_head(STOCK[1])
    outputs = random_outputs(head)
    expected = slow_losses('BucketedRSLoss', head, outputs, metas)
    assert_equal_losses(loss_of(head, outputs, metas=metas), all_maps(outputs), *expected)


@pytest.mark.parametrize('objectness', [False, True])
@EACH
def test_every_parameter_gets_a_gradient(stock, objectness):
    head = bbox_head(stock, with_objectness=objectness)
    losses = loss_of(head)
    assert set(losses) == {'loss_rank', 'loss_sort', 'loss_bbox', 'loss_mask'}
    sum(losses.values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]


@EACH
def test_without_objects_losses_are_zero_and_connected(stock):
    head = bbox_head(stock)
    losses = loss_of(head, images=objects(([], []), ([], [])))
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in head.parameters())


@EACH
def test_one_image_without_objects(stock):
    losses = loss_of(bbox_head(stock), images=[objects(([], []))[0], OBJECTS[1]])
    assert all(value > 0 for value in losses.values())


@EACH
def test_inference_is_that_of_the_stock_head(stock):
    ours, theirs = bbox_head(stock).eval(), bbox_head(stock, None).eval()
    theirs.load_state_dict(ours.state_dict())
    outputs = ours(features())
    for levels, others in zip(outputs[:3], theirs(features())[:3], strict=True):
        assert all(torch.equal(level, other) for level, other in zip(levels, others, strict=True))
    found = [head.predict_by_feat(*outputs, batch_img_metas=METAS, rescale=True) for head in (ours, theirs)]
    for mine, other in zip(*found, strict=True):
        assert len(mine) > 0 and (mine.scores > 0.4).all()
        assert set(mine.keys()) == set(other.keys())
        assert all(torch.equal(mine[key], other[key]) for key in mine.keys())  # noqa: SIM118  (InstanceData)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('part', range(4))
def test_outputs_that_are_not_finite_reach_the_losses(part, bad):
    head = bbox_head(STOCK[1])
    outputs = [
        [level.detach() for level in maps] if isinstance(maps, list) else maps.detach() for maps in random_outputs(head)
    ]
    for level in outputs[part] if part < 3 else [outputs[3]]:
        level.fill_(bad)
    assert not sum(loss_of(head, outputs).values()).isfinite()


def test_bfloat16_autocast_keeps_the_loss_in_float32():
    head = bbox_head(STOCK[1])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = loss_of(head)
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()


def test_equal_weights_of_boxes_are_those_of_masks():
    head = bbox_head(STOCK[1], dict(type='APLoss', box_weights='equal'))
    stock = bbox_head(STOCK[1], None)
    outputs = random_outputs(head)
    assigned = head.assign(*outputs[:2], with_tensors(), METAS)
    kernels = torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in outputs[2]], dim=1)
    expected = stock.loss_mask_by_feat(outputs[3], kernels, assigned.samples, with_tensors())
    torch.testing.assert_close(loss_of(head, outputs)['loss_mask'], expected)


def test_a_mask_loss_of_pixels_is_a_mean():
    head = bbox_head(STOCK[1], 'APLoss', loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True))
    cls_scores, bbox_preds, kernels, mask_feat = random_outputs(head)
    losses = loss_of(head, (cls_scores, bbox_preds, [level * 0 for level in kernels], mask_feat))
    assert losses['loss_mask'].item() == pytest.approx(math.log(2), rel=1e-5)


@EACH
def test_other_losses_are_refused(stock):
    with pytest.raises(ValueError, match=rf'RankBased{stock}: loss_cls must be a ranking loss'):
        bbox_head(stock, dict(type='FocalLoss', use_sigmoid=True))


def test_a_stock_config_trains_a_step():
    outcome = swap_survey.outcome(swap_survey.CONFIGS / 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py')
    assert outcome.what == swap_survey.TRAINED, outcome
    assert {'loss_rank', 'loss_sort', 'loss_bbox', 'loss_mask'} <= set(outcome.detail.split())
