"""A network that diverges: its losses are not finite, and no head raises before InvalidLossHook can report it."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import build as build_detector
from config_models import small_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from small_anchor_heads import METAS, features, objects_for
from small_anchor_heads import build_head as build_anchor_head
from small_co_detr import predictions, query_head
from small_dense_heads import HEAD_CONFIGS
from small_dense_heads import build_head as build_other_head
from small_dense_heads import features as features_of
from small_guided_heads import HEAD_TYPES
from small_guided_heads import build_head as build_guided_head
from small_guided_heads import losses_of as guided_losses_of
from small_roi_heads import batch, bbox_head_cfg, random_rois, roi_head_cfg
from small_roi_heads import build as build_roi_head

from bucketed_losses.mmdet.models.losses import BucketedRSLoss, ImageRows

ROOT = Path(__file__).resolve().parents[3]
ANCHOR_HEADS = ('RankBasedATSSHead', 'RankBasedLADHead', 'RankBasedPAAHead', 'RankBasedRetinaHead', 'RankBasedRPNHead')
LOSSES = ('BucketedRSLoss', 'APLoss', 'aLRPLoss', 'DRLoss')
BAD = pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')], ids=str)


def build_head(head_type, loss):
    if head_type in HEAD_CONFIGS:
        return build_other_head(head_type, loss)
    return build_anchor_head(loss, head_type)


def not_finite(losses):
    total = sum(value for name, value in losses.items() if 'loss' in name)
    return not total.isfinite()


def named_maps(head, maps):
    """The maps of all levels, or views of them, with their names."""
    if len(maps) == 1:  # YOLOv3: each anchor has four numbers of its box, a confidence and classes
        for level in maps[0]:
            attributes = level.view(len(level), -1, head.num_attrib, *level.shape[2:])
            yield 'boxes', attributes[:, :, :4]
            yield 'logits', attributes[:, :, 4:]
    else:
        for name, levels in zip(('logits', *('boxes' for _ in maps[1:])), maps, strict=True):
            yield from ((name, level) for level in levels)


@BAD
@pytest.mark.parametrize('what', ['logits', 'boxes', 'both'])
@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('head_type', [*ANCHOR_HEADS, *HEAD_CONFIGS])
def test_dense_heads(head_type, loss, what, bad):
    """Everywhere, and in one image alone."""
    head = build_head(head_type, loss)
    for images in (slice(None), slice(1, 2)):
        inputs = features_of(head) if head_type in HEAD_CONFIGS else tuple(features())
        maps = [[level.detach().clone() for level in levels] for levels in head(inputs)]
        for name, level in named_maps(head, maps):
            if what in (name, 'both'):
                level[images] = bad
        for level in itertools.chain(*maps):
            level.requires_grad_()
        losses = head.loss_by_feat(*maps, objects_for(head), METAS)
        assert not_finite(losses)
        sum(losses.values()).backward()


@pytest.mark.parametrize('head_type', HEAD_TYPES)
def test_heads_with_guided_anchors_and_sided_boxes(head_type):
    """Weights that are NaN, layer by layer; those of offsets are left out: MMCV gives zeros for offsets of NaN."""
    layers = {
        name.removesuffix('.weight') for name, p in build_guided_head(head_type).named_parameters() if p.dim() > 1
    }
    for layer in sorted(layer for layer in layers if not layer.endswith('conv_offset')):
        head = build_guided_head(head_type)
        with torch.no_grad():
            head.get_parameter(f'{layer}.weight').fill_(torch.nan)
        losses = guided_losses_of(head)
        assert not sum(torch.as_tensor(value).sum() for value in losses.values()).isfinite(), layer


@pytest.mark.parametrize('scope', ['batch', 'image'])
def test_one_positive_whose_iou_is_not_a_number(scope):
    """One of 1 to 9 positives, powers of two among them; the gradient is not finite either."""
    loss = BucketedRSLoss(scope=scope)
    for num in range(1, 10):
        logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        labels = torch.full((12,), 3)
        labels[:num] = 1
        ious = torch.linspace(0.1, 0.9, 12)
        images = ImageRows(torch.zeros_like(labels), 1)
        positive = torch.arange(num)
        assert all(part.isfinite() for part in loss(logits, (labels, ious), positive=positive, images=images).values())
        ious[num:] = torch.nan  # of background: not read
        assert all(part.isfinite() for part in loss(logits, (labels, ious), positive=positive, images=images).values())
        ious[num - 1] = torch.nan
        parts = loss(logits, (labels, ious), positive=positive, images=images)
        assert all(part.isnan() for part in parts.values())
        sum(parts.values()).backward()
        assert logits.grad[:num, 1].isnan().all()
        weight = torch.ones(12)
        weight[num - 1] = 0
        ignored = loss(logits, (labels, ious), weight, positive=positive[:-1], images=images)
        assert all(part.isfinite() for part in ignored.values())


@BAD
@pytest.mark.parametrize('loss', LOSSES)
def test_box_heads(loss, bad):
    head = build_roi_head(bbox_head_cfg(loss))
    rois, *targets = random_rois()
    for logits, deltas in ((0.0, bad), (bad, 0.0), (bad, bad)):
        outputs = torch.full((len(rois), 3), logits), torch.full((len(rois), 12), deltas)
        assert not_finite(head.loss(*outputs, rois, *targets))


@pytest.mark.parametrize('stages', [0, 2])
@pytest.mark.parametrize('what', ['maps', 'weights'])
def test_roi_heads_with_masks(stages, what):
    """With maps that are not finite, or after a step that made the weights so; proposals are finite or not."""
    for spoiled_proposals in (False, True):
        head = build_roi_head(roi_head_cfg(stages=stages))
        x, proposals, samples = batch()
        if what == 'maps':
            x = tuple(torch.full_like(level, torch.nan) for level in x)
        else:
            for parameter in head.parameters():
                parameter.data.fill_(torch.nan)
        if spoiled_proposals:
            for image in proposals:
                image.bboxes[::2] = torch.nan
        assert not_finite(head.loss(x, proposals, samples))


def test_paa_says_that_it_diverges_if_the_mixture_model_fails():
    """On scores that are finite, but so large that their variance is lost to rounding."""
    head = build_anchor_head(head_type='RankBasedPAAHead')
    cls_scores, bbox_preds = ([level.detach() for level in levels] for levels in head(features()))
    generator = torch.Generator().manual_seed(0)
    cls_scores = [1e15 * (1 + 1e-6 * torch.rand(level.shape, generator=generator)) for level in cls_scores]
    with pytest.raises(FloatingPointError, match=r'RankBasedPAAHead: .*between .*e\+1.* lower the learning rate'):
        head.loss_by_feat(cls_scores, bbox_preds, objects_for(head), METAS)


@BAD
@pytest.mark.parametrize('loss', ['FocalLoss', 'BucketedRSLoss', 'APLoss'])
def test_query_heads(loss, bad):
    """Of the baseline, too: Hungarian matching refuses costs that are not finite."""
    head = query_head(loss)
    metas = [dict(img_shape=(100, 160))] * 2
    objects = objects_for(head)
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[:, 5:] = False
    for spoil_logits, spoil_boxes in ((True, False), (False, True), (True, True)):
        for images in (slice(None), slice(1, 2)):
            logits, boxes = (value.detach().clone() for value in predictions(0))
            if spoil_logits:
                logits[images, :2] = bad
            if spoil_boxes:  # outputs of a sigmoid
                boxes[images, :2] = torch.nan
            for encoder in (True, False):
                layer, proposals = predictions(1), (logits, boxes)
                if not encoder:
                    layer, proposals = proposals, layer
                layers = (value[None] for value in layer)
                assert not_finite(head.loss_by_feat(*layers, *proposals, objects, metas, enc_valid=valid))
    # What no object may be matched with takes no part.
    logits, boxes = (value.detach().clone() for value in predictions(0))
    logits[:, 5:] = boxes[:, 5:] = bad
    targets = head.match(logits, boxes, objects, metas, valid)
    assert (targets.labels < head.num_classes).sum() == 5 and not targets.weights[:, 5:].any()


DETECTORS = (
    'bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'bccd/retinanet_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'bccd/paa_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'bccd/fcos_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'bccd/gfl_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'bccd/rtmdet_efficientnet-lite0_brs_1xb8-12e_bccd.py',
    'bccd/faster-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'bccd/cascade-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'shapes/mask-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_shapes.py',
    'shapes/mask2former_efficientnet-lite0_brs_1xb8-12e_shapes.py',
    'shapes/co-deformable-detr_efficientnet-lite0_brs_1xb4-12e_shapes.py',
    'shapes/co-deformable-detr_efficientnet-lite0_focal_1xb4-12e_shapes.py',
)


@pytest.mark.parametrize('lr', [1e6, 1e12])
@pytest.mark.parametrize('config', DETECTORS, ids=lambda config: Path(config).stem.partition('_1xb')[0])
def test_detectors_after_steps_that_are_too_large(config, lr):
    cfg = Config.fromfile(ROOT / 'configs' / config)
    inputs = small_inputs(cfg)
    model = build_detector(copy.deepcopy(cfg)).train()
    cfg.optim_wrapper.optimizer.lr = lr
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for _ in range(5):
        logs = model.train_step(copy.deepcopy(inputs), wrapper)
        if not_finite(logs):
            return
    raise AssertionError(f'after five steps the losses are still finite: {logs}')
