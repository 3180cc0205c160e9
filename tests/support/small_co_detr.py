"""Co-DETR and BRS-DETR as published, but small, and what they are trained on."""

from __future__ import annotations

import copy

import pytest
import torch
from launching import ROOT
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope

import bucketed_losses.mmdet  # noqa: F401  (registers the detectors)

BASELINE = 'configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py'
BRS = 'configs/brs_detr/brs-detr_r50_8xb2-12e_coco.py'
CO_DINO = 'configs/co_dino/co-dino-5scale_r50_8xb2-12e_coco.py'
BRS_CO_DINO = 'configs/co_dino/co-dino-5scale_r50_brs_8xb2-12e_coco.py'
BOTH = pytest.mark.parametrize('config', [BASELINE, BRS])
NUM_CLASSES = 5
AUXILIARY = ('rpn_head', 'roi_heads', 'dense_heads')


def load(config, num_classes=NUM_CLASSES, **model):
    """The published detector, small: ResNet-18, two layers each, 20 queries."""
    cfg = Config.fromfile(ROOT / config)
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.in_channels = [channels // 4 for channels in cfg.model.neck.in_channels]
    for stack in (cfg.model.encoder, cfg.model.decoder):
        stack.num_layers = 2
        stack.layer_cfg.ffn_cfg.feedforward_channels = 32
    cfg.model.num_queries = 20
    for head in (cfg.model.bbox_head, cfg.model.roi_heads.bbox_head, cfg.model.dense_heads):
        head.num_classes = num_classes
    cfg.model.roi_heads.bbox_head.fc_out_channels = 16
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
    if config in (
        BRS,
        BRS_CO_DINO,
    ):  # an untrained RPN proposes nothing near an object, so objects are added to its proposals
        cfg.model.train_cfg.rcnn.sampler = dict(
            type='RandomSampler', num=1000000, pos_fraction=1.0, add_gt_as_proposals=True
        )
    cfg.model.test_cfg.update(max_per_img=10)
    if 'dn_cfg' in cfg.model:
        cfg.model.dn_cfg.group_cfg.num_dn_queries = 10
    cfg.merge_from_dict({f'model.{key}': value for key, value in model.items()})
    return cfg.model


def without_auxiliary_heads(model):
    return {key: value for key, value in model.items() if key not in AUXILIARY}


def build(model, seed=0):
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    detector = MODELS.build(copy.deepcopy(dict(model)))
    detector.init_weights()
    return detector


def batch(detector, num_items=(2, 3), sizes=((128, 128), (128, 64)), training=True):
    inputs = demo_mm_inputs(
        len(sizes), [[3, *size] for size in sizes], num_classes=NUM_CLASSES, num_items=list(num_items)
    )
    return detector.data_preprocessor(inputs, training=training)


def predictions(seed, num_queries=7):
    torch.manual_seed(seed)
    logits = torch.randn(2, num_queries, NUM_CLASSES, requires_grad=True)
    centres, extents = torch.rand(2, num_queries, 2) * 0.4 + 0.3, torch.rand(2, num_queries, 2) * 0.3 + 0.1
    boxes = torch.cat([centres, extents], dim=-1).requires_grad_()
    return logits, boxes


def query_head(loss, **settings):
    model = load(BASELINE if loss == 'FocalLoss' else BRS)
    model.bbox_head.loss_cls.type = loss
    model.bbox_head.update(settings)
    return build(without_auxiliary_heads(model)).bbox_head
