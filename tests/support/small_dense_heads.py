"""Small heads of the dense detectors that are not of the paper: FCOS, GFL, RTMDet, RetinaNet with SepBN, VFNet."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

NUM_CLASSES = 3
REG_MAX = 8
STRIDES = (8, 16)
GN = dict(type='GN', num_groups=2)
POINTS = dict(type='MlvlPointGenerator', offset=0, strides=list(STRIDES))
RTM = dict(
    stacked_convs=1,
    anchor_generator=POINTS,
    bbox_coder=dict(type='DistancePointBBoxCoder'),
    with_objectness=False,
    pred_kernel_size=1,
    norm_cfg=dict(type='BN'),
    train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=5)),
)
HEAD_CONFIGS = {
    'RankBasedFCOSHead': dict(
        stacked_convs=1,
        norm_cfg=GN,
        strides=list(STRIDES),
        regress_ranges=((-1, 32), (32, 10**8)),
        norm_on_bbox=True,
        center_sampling=True,
    ),
    'RankBasedGFLHead': dict(
        stacked_convs=1,
        norm_cfg=GN,
        reg_max=REG_MAX,
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=list(STRIDES)
        ),
        train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9)),
    ),
    'RankBasedRTMDetHead': RTM,
    'RankBasedRTMDetSepBNHead': {**RTM, 'exp_on_reg': True, 'share_conv': True},
    'RankBasedRetinaSepBNHead': dict(
        stacked_convs=1,
        num_ins=2,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=list(STRIDES)
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
        ),
    ),
}
HEAD_CONFIGS['RankBasedVFNetHead'] = dict(
    stacked_convs=1,
    norm_cfg=GN,
    strides=list(STRIDES),
    regress_ranges=((-1, 32), (32, 64)),
    loss_bbox_refine=dict(type='GIoULoss', loss_weight=3.0),
    anchor_generator=dict(
        type='AnchorGenerator',
        ratios=[1.0],
        octave_base_scale=4,
        scales_per_octave=1,
        center_offset=0.0,
        strides=list(STRIDES),
    ),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9)),
)


def build_head(head_type, loss='BucketedRSLoss', **kwargs):
    torch.manual_seed(0)
    specific = {**HEAD_CONFIGS[head_type], **kwargs}
    train_cfg = ConfigDict(dict(allowed_border=-1, pos_weight=-1, debug=False), **specific.pop('train_cfg', {}))
    test_cfg = ConfigDict(
        nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=10
    )
    head = MODELS.build(
        dict(
            type=head_type,
            num_classes=NUM_CLASSES,
            in_channels=8,
            feat_channels=8,
            loss_cls=dict(type=loss) if isinstance(loss, str) else loss,
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            **specific,
        )
    )
    head.init_weights()
    return head
