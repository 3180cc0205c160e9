"""SOLO and SOLOv2: cells are ranked by class, labelled by the IoUs of their masks."""

from __future__ import annotations

import functools
import inspect

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of

pytest.importorskip('mmdet')

from mmengine.config import ConfigDict
from small_dense_heads import random_maps
from small_solo_heads import GRIDS, HEADS, METAS, NUM_CLASSES, OBJECTS, build_head, features, objects

EACH = pytest.mark.parametrize('head_type', HEADS)
LOSSES = pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
TWO_LOSSES = pytest.mark.parametrize('loss', ['APLoss', 'BucketedRSLoss'])


def loss_of(head, outputs=None, images=OBJECTS):
    outputs = head(features()) if outputs is None else outputs
    return head.loss_by_feat(*outputs, batch_gt_instances=images, batch_img_metas=METAS)


def random_outputs(head):
    """Every map of every level with random values."""
    return [
        random_maps(maps, 2.0, seed=3 + index) if isinstance(maps, list) else random_maps([maps], seed=9)[0]
        for index, maps in enumerate(head(features()))
    ]


def mask_of(head, outputs, level, image, cell):
    """The probabilities of the pixels of a cell's mask."""
    row, column = divmod(cell, GRIDS[level])
    name = type(head).__name__
    if 'Decoupled' in name:
        x, y, _ = outputs
        return x[level][image, column].sigmoid() * y[level][image, row].sigmoid()
    if 'V2' in name:
        kernels, _, mask_features = outputs
        kernel = kernels[level][image, :, row, column]
        return sum(weight * channel for weight, channel in zip(kernel, mask_features[image], strict=True)).sigmoid()
    return outputs[0][level][image, cell].sigmoid()


def dice(probabilities, target):
    """V-Net paper, Eq. 3, with MMDetection's constants, and the IoU of the mask."""
    target = target.float()
    overlap = (probabilities * target).sum()
    loss = 1 - 2 * overlap / ((probabilities**2).sum() + 1e-3 + (target**2).sum() + 1e-3)
    predicted = probabilities > 0.5
    iou = (predicted & (target > 0)).sum() / (predicted | (target > 0)).sum()
    return 3.0 * loss, float(iou)


@LOSSES
@EACH
def test_losses_equal_a_slow_computation(head_type, loss):
    head = build_head(head_type, loss)
    outputs = random_outputs(head)
    losses = loss_of(head, outputs)

    second = 'V2' in head_type
    cls_preds = outputs[1] if second else outputs[-1]
    sizes = outputs[2].shape[-2:] if second else [level.shape[-2:] for level in outputs[0]]
    assigned = [head._get_targets_single(image, featmap_sizes=sizes) for image in OBJECTS]
    entries, masks, repeated = [], [], 0
    for level, grid in enumerate(GRIDS):
        for image, (targets, labels, *rest) in enumerate(assigned):
            cells = (labels[level].flatten() < NUM_CLASSES).nonzero().squeeze(1).tolist()
            if second:
                cells = rest[1][level]
            repeated += len(cells) - len(set(cells))
            quality = {}
            for cell, target in zip(cells, targets[level], strict=True):
                value, quality[cell] = dice(mask_of(head, outputs, level, image, cell), target)
                row, column = divmod(cell, grid)
                weight = cls_preds[level][image, :, row, column].detach().sigmoid().max()
                masks.append((weight, {'loss_mask': value}))
            for cell in range(grid * grid):
                row, column = divmod(cell, grid)
                label = int(labels[level][row, column])
                entries += entries_of(cls_preds[level][image, :, row, column], label, quality.get(cell))
    assert len(masks) > 10 and (repeated > 0) == second
    maps = [level for part in outputs for level in (part if isinstance(part, list) else [part])]
    assert_equal_losses(losses, maps, *combined_losses(loss, entries, [masks]))


@TWO_LOSSES
@EACH
def test_every_parameter_gets_a_gradient(head_type, loss):
    head = build_head(head_type, loss)
    losses = loss_of(head)
    assert set(losses) == {'loss_rank', 'loss_mask', *(['loss_sort'] if 'RS' in loss else [])}
    sum(losses.values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]


@TWO_LOSSES
@EACH
def test_without_objects_losses_are_zero_and_connected(head_type, loss):
    head = build_head(head_type, loss)
    losses = loss_of(head, images=objects(([], []), ([], [])))
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in head.parameters())


@EACH
def test_only_the_classifier_starts_with_a_bias_of_zero(head_type):
    head = build_head(head_type)
    assert [bias.data_ptr() for bias in head.classifier_biases()] == [head.conv_cls.bias.data_ptr()]
    assert head.conv_cls.bias.eq(0).all()
    for name, layers in head.named_children():
        if name.startswith('conv_mask_list'):
            assert all(layer.bias.mean() < -4 for layer in layers)


@EACH
def test_scope_image_is_the_mean_over_images(head_type):
    head, alone = build_head(head_type, dict(type='RSLoss', scope='image')), build_head(head_type, 'RSLoss')
    outputs = random_outputs(head)

    def ranking(module, start, end):
        parts = (
            [level[start:end] for level in part] if isinstance(part, list) else part[start:end] for part in outputs
        )
        losses = module.loss_by_feat(*parts, batch_gt_instances=OBJECTS[start:end], batch_img_metas=METAS[start:end])
        return losses['loss_rank'].item()

    assert ranking(head, 0, 2) == pytest.approx((ranking(alone, 0, 1) + ranking(alone, 1, 2)) / 2, rel=1e-5)


@EACH
def test_bfloat16_autocast_keeps_the_loss_in_float32(head_type):
    head = build_head(head_type)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = loss_of(head)
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()


def test_alrp_uses_the_mask_errors():
    losses = loss_of(build_head('RankBasedSOLOHead', 'aLRPLoss'))
    assert set(losses) == {'loss_cls', 'loss_mask'} and all(value > 0 for value in losses.values())
    loss_mask = dict(type='DiceLoss', use_sigmoid=True, loss_weight=0.0)
    with pytest.raises(ValueError, match=r'loss_weight of the loss of boxes or masks must not be 0, got 0\.0'):
        loss_of(build_head('RankBasedSOLOHead', 'aLRPLoss', loss_mask=loss_mask))


@EACH
def test_other_losses_are_refused(head_type):
    with pytest.raises(ValueError, match=rf'{head_type}: loss_cls must be a ranking loss'):
        build_head(head_type, dict(type='FocalLoss', use_sigmoid=True))


@EACH
def test_masks_are_computed_for_the_highest_scores_only(head_type, monkeypatch):
    """Nearly all ranking scores are above score_thr, and MMDetection computes the mask of each of them."""
    head = build_head(head_type).eval()
    assert head._predict_by_feat_single.__qualname__.startswith('RankingSOLOHeadMixin')
    cfg = dict(score_thr=0.1, mask_thr=0.0, filter_thr=-1, kernel='gaussian', sigma=2.0, max_per_img=5)
    with torch.no_grad():
        seen = []
        stock = stock_of(type(head))
        predict = stock._predict_by_feat_single

        @functools.wraps(predict)
        def watched(self, *args, **kwargs):
            scores = inspect.signature(predict).bind(self, *args, **kwargs).arguments['cls_scores']
            seen.append(int((scores > 0.1).sum()))
            return predict(self, *args, **kwargs)

        monkeypatch.setattr(stock, '_predict_by_feat_single', watched)
        found = []
        for nms_pre in (-1, 6):
            head.test_cfg = ConfigDict(cfg, nms_pre=nms_pre)
            found.append(
                head.predict_by_feat(*head(features()), batch_img_metas=[dict(m, ori_shape=(64, 64)) for m in METAS])
            )
    assert min(seen[:2]) > 24 and seen[2:] == [24, 24]
    for many, few in zip(*found, strict=True):
        assert len(few) and few.scores.max() == many.scores.max()


def stock_of(head_type):
    """The class of MMDetection below a head that has the code of predictions."""
    (first, *_) = (
        one for one in head_type.__mro__
        if one.__module__.startswith('mmdet.') and '_predict_by_feat_single' in vars(one)
    )  # fmt: skip
    return first
