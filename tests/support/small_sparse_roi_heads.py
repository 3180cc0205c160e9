"""A small RoI head of QueryInst, and small detectors from MMDetection's configs of Sparse R-CNN and QueryInst."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import InstanceList
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from small_query_heads import METAS, NUM_CLASSES, SIZES, truth
from swap_survey import CONFIGS
from torch import Tensor, nn

STOCK = {
    'SparseRCNN': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'QueryInst': 'queryinst/queryinst_r50_fpn_1x_coco.py',
}
"""A config of MMDetection for each detector."""

STAGE_WEIGHTS = [1.0, 0.5]
CHANNELS, NUM_QUERIES, MASK_SIZE = 8, 6, 8


def roi_head_cfg(loss: str, mask: bool = True, box: dict | None = None, **settings: Any) -> dict:
    """Two stages on one map of stride 8; ``box`` are settings of the box heads."""
    extractor = dict(type='SingleRoIExtractor', out_channels=CHANNELS, featmap_strides=[8])
    conv = dict(type='DynamicConv', in_channels=CHANNELS, feat_channels=4, out_channels=CHANNELS)
    bbox_head = dict(
        type='RankBasedDIIHead',
        num_classes=NUM_CLASSES,
        num_heads=2,
        num_reg_fcs=1,
        feedforward_channels=16,
        in_channels=CHANNELS,
        dynamic_conv_cfg=dict(conv, input_feat_shape=3),
        loss_cls=dict(type=loss, loss_weight=2.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', clip_border=False, target_stds=[0.5, 0.5, 1.0, 1.0]),
    )
    costs = [
        dict(type='FocalLossCost', weight=4.0),
        dict(type='BBoxL1Cost', weight=5.0, box_format='xyxy'),
        dict(type='IoUCost', iou_mode='giou', weight=2.0),
    ]
    stage = dict(
        assigner=dict(type='HungarianAssigner', match_costs=costs),
        sampler=dict(type='PseudoSampler'),
        pos_weight=1,
        mask_size=MASK_SIZE,
    )
    num_stages = len(STAGE_WEIGHTS)
    config = dict(
        type='RankBasedSparseRoIHead',
        num_stages=num_stages,
        stage_loss_weights=STAGE_WEIGHTS,
        proposal_feature_channel=CHANNELS,
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=1), **extractor),
        bbox_head=[{**bbox_head, **(box or {})} for _ in range(num_stages)],
        train_cfg=[ConfigDict(stage) for _ in range(num_stages)],
        test_cfg=ConfigDict(max_per_img=5, mask_thr_binary=0.5),
    )
    if mask:
        mask_head = dict(
            type='RankBasedDynamicMaskHead',
            num_convs=1,
            roi_feat_size=4,
            in_channels=CHANNELS,
            conv_out_channels=CHANNELS,
            num_classes=NUM_CLASSES,
            norm_cfg=dict(type='BN'),
            dynamic_conv_cfg=dict(conv, input_feat_shape=4, with_proj=False),
            loss_mask=dict(type='DiceLoss', loss_weight=8.0, use_sigmoid=True, activate=False, eps=1e-5),
        )
        config.update(
            mask_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=4, sampling_ratio=1), **extractor),
            mask_head=[mask_head] * num_stages,
        )
    return {**config, **settings}


def small_roi_head(loss: str = 'BucketedRSLoss', **settings: Any) -> Any:
    init_default_scope('mmdet')
    torch.manual_seed(0)
    head = MODELS.build(roi_head_cfg(loss, **settings))
    head.init_weights()
    # mmcv's MultiheadAttention writes the dropout of a DETR into a default argument, so that heads built after it have
    # dropout, too, unless they ask for another.
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return head


def inputs(objects: InstanceList | None = None) -> tuple[tuple[Tensor], InstanceList, list[DetDataSample]]:
    """A map of two images of different sizes, proposals, and data samples with boxes and masks."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(2, CHANNELS, 13, 20, generator=generator),)
    features = torch.randn(NUM_QUERIES, CHANNELS, generator=generator)
    proposals, samples = [], []
    for meta, (width, height), own in zip(METAS, SIZES, truth() if objects is None else objects, strict=True):
        size = torch.tensor([width, height, width, height], dtype=torch.float32)
        corner = torch.rand(NUM_QUERIES, 2, generator=generator) * 0.5
        boxes = torch.cat([corner, corner + 0.2 + 0.3 * torch.rand(NUM_QUERIES, 2, generator=generator)], 1) * size
        proposals.append(InstanceData(bboxes=boxes, imgs_whwh=size.expand(NUM_QUERIES, 4), features=features.clone()))
        masks = torch.zeros(len(own), height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, own.bboxes.int().tolist(), strict=True):
            mask[y1 : (y1 + y2) // 2, x1:x2] = 1
        own = InstanceData(bboxes=own.bboxes, labels=own.labels, masks=BitmapMasks(masks.numpy(), height, width))
        samples.append(DetDataSample(metainfo=dict(meta, ori_shape=meta['img_shape'], scale_factor=(1.0, 1.0))))
        samples[-1].gt_instances = own
        samples[-1].ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return x, proposals, samples


def small_config(detector: str) -> Config:
    """A stock config with two stages, few channels and few proposals."""
    cfg = Config.fromfile(CONFIGS / STOCK[detector])
    model, num_stages, channels = cfg.model, 2, 32
    model.backbone.update(depth=18, init_cfg=None)
    model.neck.update(in_channels=[64, 128, 256, 512], out_channels=channels)
    model.rpn_head.update(num_proposals=20, proposal_feature_channel=channels)
    roi_head = model.roi_head
    roi_head.update(num_stages=num_stages, stage_loss_weights=[1] * num_stages, proposal_feature_channel=channels)
    roi_head.bbox_head = roi_head.bbox_head[:num_stages]
    model.train_cfg.rcnn = model.train_cfg.rcnn[:num_stages]
    heads = list(roi_head.bbox_head)
    for head in heads:
        head.update(in_channels=channels, feedforward_channels=32)
    roi_head.bbox_roi_extractor.out_channels = channels
    if 'mask_head' in roi_head:
        roi_head.mask_head = roi_head.mask_head[:num_stages]
        for head in roi_head.mask_head:
            head.update(in_channels=channels, conv_out_channels=channels, num_convs=1)
        heads += roi_head.mask_head
        roi_head.mask_roi_extractor.out_channels = channels
    for head in heads:
        head.num_classes = NUM_CLASSES
        head.dynamic_conv_cfg.update(in_channels=channels, feat_channels=8, out_channels=channels)
    model.test_cfg.rcnn.max_per_img = 20  # QueryInst needs as many detections as proposals
    return cfg
