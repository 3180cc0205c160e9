"""Whole two-stage detectors in the situations that training meets, and configs that pair what does not fit."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import losses_after_backward
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData
from swap_survey import CONFIGS, few_proposals

from bucketed_losses.mmdet.swap import swap_loss

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[3]
FASTER, CASCADE, MASK = (
    f'configs/{name}.py'
    for name in (
        'faster_rcnn/faster-rcnn_r50_fpn_brs_4xb4-1x_coco',
        'cascade_rcnn/cascade-rcnn_r50_fpn_brs_4xb4-1x_coco',
        'mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco',
    )
)


def load(config):
    cfg = Config.fromfile(ROOT / config)
    init_default_scope('mmdet')
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    few_proposals(cfg.model)
    heads = cfg.model.roi_head.bbox_head if 'roi_head' in cfg.model else []
    for head in heads if isinstance(heads, list) else [heads]:
        head.fc_out_channels = 16
    return cfg


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.init_weights()
    return model.train()


@pytest.mark.parametrize(
    ('stock', 'classifier'),
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'roi_head.bbox_head.fc_cls'),
        ('atss/atss_r50_fpn_1x_coco.py', None),
    ],
)
def test_a_training_can_start_from_a_checkpoint_of_the_stock_detector(stock, classifier, tmp_path):
    """Each parameter of the same name and shape is loaded; a softmax classifier, with one row more, starts anew."""
    cfg = load(CONFIGS / stock)
    own = build(cfg).state_dict()
    torch.save(dict(state_dict={name: value + 1 for name, value in own.items()}), tmp_path / 'stock.pth')
    detector = build(swap_loss(cfg).cfg)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    load_checkpoint(detector, str(tmp_path / 'stock.pth'), map_location='cpu', strict=False)
    anew = set()
    for name, value in detector.state_dict().items():
        if name in own and value.shape == own[name].shape:
            assert torch.equal(value, own[name] + 1)
        else:
            assert torch.equal(value, before[name])
            anew.add(name)
    assert anew == ({f'{classifier}.weight', f'{classifier}.bias'} if classifier else set())
    assert classifier or torch.allclose(detector.bbox_head.atss_cls.bias, torch.tensor(1 - math.log(99)))


def batch(model, num_items=(2, 3)):
    inputs = demo_mm_inputs(
        2, [[3, 96, 96], [3, 96, 128]], num_classes=80, num_items=list(num_items), with_mask=model.with_mask
    )
    return model.data_preprocessor(inputs, training=True)


@pytest.mark.parametrize('config', [FASTER, CASCADE, MASK])
@pytest.mark.parametrize('situation', ['no objects', 'all crowd', 'one image without objects'])
def test_training_goes_on(config, situation):
    model = build(load(config))
    data = batch(model, (2, 0) if situation.startswith('one') else (2, 3) if situation == 'all crowd' else (0, 0))
    if situation == 'all crowd':
        for sample in data['data_samples']:
            sample.ignored_instances = InstanceData(bboxes=sample.gt_instances.bboxes)
            sample.gt_instances = sample.gt_instances[:0]
    losses = losses_after_backward(model, data)
    if situation.startswith('one'):
        assert all(value > 0 for name, value in losses.items() if 'rank' in name)
    else:
        assert all(value == 0 for value in losses.values()), losses


def test_no_positive_in_the_rpn_only():
    cfg = load(FASTER)
    cfg.model.train_cfg.rpn.assigner.update(pos_iou_thr=1.1, min_pos_iou=1.1)
    losses = losses_after_backward(model := build(cfg), batch(model))
    assert losses['loss_rpn_rank'] == losses['loss_rpn_sort'] == losses['loss_rpn_bbox'] == 0
    assert losses['loss_rank'] > 0 and losses['loss_bbox'] > 0, 'ground truth is among the proposals'


def test_no_positive_in_the_roi_head_only():
    cfg = load(MASK)
    cfg.model.train_cfg.rcnn.assigner.update(pos_iou_thr=1.1, min_pos_iou=1.1)
    cfg.model.train_cfg.rcnn.sampler.update(add_gt_as_proposals=False)
    losses = losses_after_backward(model := build(cfg), batch(model))
    assert losses['loss_rpn_rank'] > 0
    assert losses['loss_rank'] == losses['loss_bbox'] == losses['loss_mask'] == 0


def test_no_positive_in_a_later_stage():
    cfg = load(CASCADE)
    cfg.model.train_cfg.rcnn[2].assigner.update(pos_iou_thr=1.1, min_pos_iou=1.1)
    cfg.model.train_cfg.rcnn[2].sampler.update(add_gt_as_proposals=False)
    losses = losses_after_backward(model := build(cfg), batch(model))
    assert losses['s0.loss_rank'] > 0 and losses['s1.loss_bbox'] > 0
    assert losses['s2.loss_rank'] == losses['s2.loss_sort'] == losses['s2.loss_bbox'] == 0


PAIRINGS = [
    (
        "_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'\n"
        "model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='RSLoss')))",
        ['ATSSHead', "type='RankBasedATSSHead'"],
    ),
    (
        "_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'\n"
        "model = dict(rpn_head=dict(type='RankBasedRPNHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss'),\n"
        "    loss_bbox=dict(_delete_=True, type='GIoULoss')))",
        ['RankBasedRPNHead', 'RandomSampler', 'PseudoSampler'],
    ),
    (
        "_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'\n"
        "model = dict(rpn_head=dict(loss_cls=dict(_delete_=True, type='BucketedAPLoss', use_sigmoid=True)))",
        ['RPNHead', "type='RankBasedRPNHead'"],
    ),
    (
        "_base_ = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'\n"
        "model = dict(roi_head=dict(type='RankBasedCascadeRoIHead'))",
        ['RankBasedCascadeRoIHead', 'RandomSampler', 'num=512'],
    ),
    (
        "_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'\n"
        "model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='RSLoss')))",
        ['DETRHead cannot train RSLoss'],
    ),
]


@pytest.mark.parametrize(('text', 'words'), PAIRINGS)
def test_configs_that_do_not_fit_fail_when_built(text, words):
    cfg = Config.fromstring(text, '.py')
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    with pytest.raises((ValueError, RuntimeError)) as caught:
        MODELS.build(cfg.model)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ('config', 'option', 'head'),
    [
        ('configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py', 'bbox_head', 'RankBasedATSSHead'),
        (
            'configs/shapes/mask-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_shapes.py',
            'roi_head.bbox_head',
            'RankBasedShared2FCBBoxHead',
        ),
    ],
)
def test_num_classes_that_disagrees_with_the_data_is_caught(config, option, head, shapes_root, tmp_path):
    """By MMDetection's own hook, which the CPU-sized configs carry."""
    pytest.importorskip('efficientnet_lite_pytorch')
    options = [f'model.{option}.num_classes=7', 'train_dataloader.batch_size=2']
    run = subprocess.run(
        [sys.executable, 'tools/train.py', config, '--work-dir', tmp_path, '--cfg-options', *options],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'SHAPES_ROOT': str(shapes_root)},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert f'The `num_classes` (7) in {head}' in run.stderr
