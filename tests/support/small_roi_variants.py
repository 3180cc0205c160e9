"""Small RoI heads of the families of Cascade and Mask R-CNN: HTC, SCNet, Mask Scoring R-CNN, PointRend and others."""

from __future__ import annotations

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from small_roi_heads import NUM_CLASSES, SIZE, batch, bbox_head_cfg, build, roi_head_cfg

MASK = dict(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=NUM_CLASSES)
EXTRACTOR = dict(
    type='SingleRoIExtractor',
    out_channels=4,
    featmap_strides=[8],
    roi_layer=dict(type='RoIAlign', output_size=4, sampling_ratio=1),
)
SEMANTIC = dict(
    num_ins=1, fusion_level=0, num_convs=2, in_channels=4, conv_out_channels=4, num_classes=5, seg_scale_factor=1 / 8
)


def _htc(name, stages=3, semantic=True, interleaved=True):
    cfg = roi_head_cfg(name, stages=stages)
    cfg.update(
        type='RankBasedHTCRoIHead',
        interleaved=interleaved,
        mask_head=[dict(type='RankBasedHTCMaskHead', with_conv_res=stage > 0, **MASK) for stage in range(stages)],
    )
    if semantic:
        cfg.update(semantic_head=dict(type='FusedSemanticHead', **SEMANTIC), semantic_roi_extractor=EXTRACTOR)
    return cfg


def _scnet(name, stages=3):
    cfg = roi_head_cfg(name, stages=stages)
    bbox_head = {**cfg['bbox_head'][0], 'type': 'RankBasedSCNetBBoxHead', 'num_shared_fcs': 1}
    cfg.update(
        type='RankBasedSCNetRoIHead',
        bbox_head=[bbox_head] * stages,
        mask_head=dict(type='RankBasedSCNetMaskHead', **{**MASK, 'num_convs': 2}),
        semantic_head=dict(type='SCNetSemanticHead', **SEMANTIC),
        semantic_roi_extractor=EXTRACTOR,
        glbctx_head=dict(
            type='GlobalContextHead', num_convs=1, in_channels=4, conv_out_channels=4, num_classes=NUM_CLASSES
        ),
        feat_relay_head=dict(
            type='FeatureRelayHead', in_channels=8, out_conv_channels=4, roi_feat_size=2, scale_factor=2
        ),
    )
    return cfg


def _mask_scoring(name):
    cfg = roi_head_cfg(name)
    cfg['train_cfg'].mask_thr_binary = 0.5
    iou_head = dict(num_convs=1, num_fcs=1, roi_feat_size=4, in_channels=4, conv_out_channels=4, fc_out_channels=8)
    return {
        **cfg,
        'type': 'RankBasedMaskScoringRoIHead',
        'mask_iou_head': dict(type='MaskIoUHead', num_classes=NUM_CLASSES, **iou_head),
    }


def _point_rend(name):
    cfg = roi_head_cfg(name)
    cfg['train_cfg'].update(mask_size=2, num_points=9, oversample_ratio=3, importance_sample_ratio=0.75)
    cfg['test_cfg'].update(subdivision_steps=2, subdivision_num_points=16, scale_factor=2)
    coarse = dict(num_fcs=1, roi_feat_size=4, in_channels=4, conv_out_channels=4, fc_out_channels=8)
    return {
        **cfg,
        'type': 'RankBasedPointRendRoIHead',
        'mask_head': dict(type='RankBasedCoarseMaskHead', num_classes=NUM_CLASSES, **coarse),
        'point_head': dict(type='MaskPointHead', num_fcs=1, in_channels=4, fc_channels=4, num_classes=NUM_CLASSES),
    }


def _double_head(name):
    bbox_head = bbox_head_cfg(name, 'RankBasedDoubleConvFCBBoxHead')
    return roi_head_cfg(
        name, mask=False, type='RankBasedDoubleHeadRoIHead', bbox_head=bbox_head, reg_roi_scale_factor=1.3
    )


def _dynamic(name):
    cfg = roi_head_cfg(name, mask=False, type='RankBasedDynamicRoIHead')
    cfg['train_cfg'].dynamic_rcnn = ConfigDict(iou_topk=5, update_iter_interval=2, initial_iou=0.4)
    return cfg


def _grid(name):
    bbox_head = bbox_head_cfg(name, with_reg=False)
    cfg = roi_head_cfg(name, mask=False, type='RankBasedGridRoIHead', bbox_head=bbox_head)
    cfg['train_cfg'].update(pos_radius=1, max_num_grid=8)
    grid_head = dict(
        roi_feat_size=4, num_convs=1, in_channels=4, point_feat_channels=4, norm_cfg=dict(type='GN', num_groups=36)
    )
    return {**cfg, 'grid_roi_extractor': EXTRACTOR, 'grid_head': dict(type='GridHead', **grid_head)}


def _trident(name):
    return roi_head_cfg(name, mask=False, type='RankBasedTridentRoIHead', num_branch=2, test_branch_idx=-1)


VARIANTS = dict(
    htc=_htc,
    scnet=_scnet,
    mask_scoring=_mask_scoring,
    point_rend=_point_rend,
    double_head=_double_head,
    dynamic=_dynamic,
    grid=_grid,
    trident=_trident,
)
OTHER_LOSSES = {'loss_semantic_seg', 'loss_glbctx'}
"""Losses that do not concern boxes; they are not 0 without objects."""


def build_variant(variant, name='BucketedRSLoss', **kwargs):
    head = build({**VARIANTS[variant](name), **kwargs})
    if variant == 'mask_scoring':  # the first masks of a new head are empty
        torch.nn.init.normal_(head.mask_head.conv_logits.weight, std=2)
    return head


def segmented_batch(*args, **kwargs):
    """``batch`` with a semantic map for each image."""
    x, proposals, samples = batch(*args, **kwargs)
    generator = torch.Generator().manual_seed(2)
    for sample in samples:
        sample.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 5, (1, SIZE, SIZE), generator=generator))
    return x, proposals, samples
