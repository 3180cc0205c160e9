"""Models of whole configs, built at full size without downloads, and small images for them."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from swap_survey import few_proposals, without_downloads

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def _read(path):
    return Config.fromfile(path)


def config_of(path):
    """A copy of a config of this project; reading one takes MMEngine up to a second, so each is read once."""
    return copy.deepcopy(_read(ROOT / path))


def bbox_heads(cfg):
    """The configs of the heads that classify: one, or one per stage."""
    model = cfg.model
    heads = (
        model.roi_head.bbox_head
        if 'roi_head' in model
        else model.get('bbox_head') or model.get('mask_head') or model.panoptic_head
    )
    return heads if isinstance(heads, list) else [heads]


def num_classes_of(cfg):
    """The number of classes of the detector; for Mask2Former, of things."""
    head = bbox_heads(cfg)[0]
    return head.get('num_classes') or head.num_things_classes


def build(cfg):
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if cfg.model.backbone.type == 'EfficientNetLite0':
        pytest.importorskip(
            'efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"'
        )
    torch.manual_seed(0)
    model = MODELS.build(few_proposals(without_downloads(cfg.model)))
    model.init_weights()
    return model


def small_inputs(cfg, num_items=(3, 2)):
    # MMCV refuses deformable convolutions of maps smaller than their kernels: DDOD's coarsest one has a stride of 64.
    height = 192 if 'DDODHead' in bbox_heads(cfg)[0].type else 128
    return demo_mm_inputs(
        2,
        [[3, height, height], [3, height - 32, height]],
        num_classes=num_classes_of(cfg),
        num_items=list(num_items),
        with_mask=any(key in cfg.model for key in ('mask_head', 'panoptic_head'))
        or 'mask_head' in cfg.model.get('roi_head', {}),
    )


def losses_after_backward(detector, data):
    """The losses of a step as numbers, by log name; every parameter has a gradient."""
    losses = detector(**data, mode='loss')
    total, _ = detector.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    missing = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, 'DDP would wait for these'
    scalars = {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}
    return {name: value.item() for name, value in scalars.items() if 'loss' in name}
