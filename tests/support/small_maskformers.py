"""MaskFormer, Mask2Former and its video form: small heads with predictions, and small detectors from stock configs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs, demo_track_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from swap_survey import CONFIGS

from bucketed_losses.mmdet.swap import swap_loss

NUM_CLASSES, NUM_QUERIES, NUM_LAYERS, NUM_FRAMES = 3, 10, 2, 2
STOCK = {
    'MaskFormerHead': 'maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
    'Mask2FormerHead': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'Mask2FormerTrackHead': 'mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py',
}
"""A config of MMDetection for each head."""

VIDEO = 'Mask2FormerTrackHead'
SMALL = dict(
    embed_dims=16,
    feat_channels=16,
    out_channels=16,
    feedforward_channels=16,
    num_heads=2,
    num_groups=2,
    num_feats=8,
    num_layers=1,
    num_things_classes=NUM_CLASSES,
    num_stuff_classes=0,
    num_classes=NUM_CLASSES,
    num_queries=NUM_QUERIES,
    max_per_image=6,
    dropout=0.0,
    ffn_drop=0.0,
)


def small_config(stock: str, **settings: Any) -> Config:
    """A stock config with few layers, channels, queries and points; ``settings`` replace values wherever they are."""
    cfg = Config.fromfile(CONFIGS / STOCK[stock])
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.init_cfg = None
    cfg.model.data_preprocessor.batch_augments = None  # they pad images to 1024 x 1024 pixels
    _shrink(cfg.model, {**SMALL, **settings})
    head = _head(cfg.model)
    head.in_channels = [64, 128, 256, 512]
    head.transformer_decoder.num_layers = NUM_LAYERS - (stock != 'MaskFormerHead')
    head.loss_cls.class_weight = [1.0] * (NUM_CLASSES + settings.get('num_stuff_classes', 0)) + [0.1]
    return cfg


def _shrink(part: Any, values: dict[str, Any]) -> None:
    for key, value in part.items():
        if key in values and value is not None:
            part[key] = values[key]
        elif isinstance(value, dict):
            _shrink(value, values)
    if 'num_points' in part and 'assigner' in part:
        part['num_points'] = 64


def _head(model: Any) -> Any:
    return model.get('panoptic_head') or model.track_head


def small_head(stock: str, loss: str = 'BucketedRSLoss', ranking: bool = True, **settings: Any) -> Any:
    """The head of a swapped stock config, with initial weights."""
    model = small_config(stock).model
    if ranking:
        model = swap_loss(dict(model=model), {'APLoss': 'ap', 'aLRPLoss': 'alrp'}.get(loss, loss)).cfg.model
    head = copy.deepcopy(_head(model))
    if stock != VIDEO:
        head.update(train_cfg=model.train_cfg, test_cfg=model.test_cfg)
    for key, value in settings.items():
        head[key] = value
    return build(head)


def build(model: Any, seed: int = 0) -> Any:
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    module = MODELS.build(copy.deepcopy(model))
    module.init_weights()
    return module


def batch(detector: Any, num_items: tuple[int, int] = (2, 3), training: bool = True) -> dict[str, Any]:
    """Two images of noise, or a video of two frames."""
    if hasattr(detector, 'track_head'):
        inputs = demo_track_inputs(
            batch_size=1,
            num_frames=2,
            key_frames_inds=[0],
            image_shapes=(3, 64, 64),
            num_classes=NUM_CLASSES,
            num_items=None if sum(num_items) else [0],
            with_mask=True,
        )
    else:
        inputs = demo_mm_inputs(
            2,
            [[3, 64, 64], [3, 64, 48]],
            num_classes=NUM_CLASSES,
            num_items=list(num_items),
            with_mask=True,
            with_semantic=detector.num_stuff_classes > 0,
        )
    return detector.data_preprocessor(inputs, training=training)
