"""Small heads with refined or side-aware boxes: guided anchoring, SABL RetinaNet and Cascade RPN."""

from __future__ import annotations

import torch
from head_reference import STDS
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from small_anchor_heads import MAX_IOU, METAS, NUM_CLASSES, OBJECTS, features, instances

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

STRIDES = [8, 16]
BUCKETS = 6
APPROX_MAX_IOU = {**MAX_IOU, 'type': 'ApproxMaxIoUAssigner'}
ANCHORS = dict(
    approx_anchor_generator=dict(
        type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=STRIDES
    ),
    square_anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales=[4], strides=STRIDES),
)
CODER = dict(type='DeltaXYWHBBoxCoder', target_stds=list(STDS))
BASE = dict(allowed_border=-1, pos_weight=-1, debug=False)
GUIDED = dict(
    **ANCHORS,
    num_classes=NUM_CLASSES,
    bbox_coder=CODER,
    loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    train_cfg=dict(
        **BASE,
        assigner=MAX_IOU,
        ga_assigner=APPROX_MAX_IOU,
        ga_sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5, add_gt_as_proposals=False),
        center_ratio=0.2,
        ignore_ratio=0.5,
    ),
)
HEADS = {
    'RankBasedGARetinaHead': {**GUIDED, 'stacked_convs': 1},
    'RankBasedGARPNHead': {**GUIDED, 'num_classes': 1},
    'RankBasedSABLRetinaHead': dict(
        **ANCHORS,
        num_classes=NUM_CLASSES,
        stacked_convs=1,
        bbox_coder=dict(type='BucketingBBoxCoder', num_buckets=BUCKETS, scale_factor=3.0),
        train_cfg=dict(**BASE, assigner=APPROX_MAX_IOU),
    ),
}


def _stage(adapt, **kwargs):
    return dict(
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=STRIDES),
        adapt_cfg=adapt,
        bbox_coder=CODER,
        reg_decoded_bbox=True,
        loss_bbox=dict(type='IoULoss', linear=True, loss_weight=7.0),
        **kwargs,
    )


def cascade_rpn(loss):
    first = _stage(dict(type='dilation', dilation=3), with_cls=False, bridged_feature=True)
    last = _stage(dict(type='offset'), loss_cls=loss)
    return dict(
        type='RankBasedCascadeRPNHead',
        num_classes=1,
        num_stages=2,
        stages=[
            dict(type='StageCascadeRPNHead', **first),
            dict(type='RankBasedStageCascadeRPNHead', **last),
        ],
        train_cfg=[
            ConfigDict(assigner=dict(type='RegionAssigner', center_ratio=0.2, ignore_ratio=0.5), **BASE),
            ConfigDict(assigner={**MAX_IOU, 'pos_iou_thr': 0.5}, **BASE),
        ],
    )


TEST_CFG = dict(
    nms_pre=100,
    nms_post=100,
    min_bbox_size=0,
    score_thr=0.0,
    nms=dict(type='nms', iou_threshold=0.6),
    max_per_img=10,
)


def build_head(head_type, name='BucketedRSLoss', **kwargs):
    """A small head; ``name`` is a loss's type."""
    torch.manual_seed(0)
    if head_type == 'RankBasedCascadeRPNHead':
        cfg = cascade_rpn(dict(type=name))
    else:
        cfg = dict(type=head_type, in_channels=8, feat_channels=8, loss_cls=dict(type=name), **HEADS[head_type])
        cfg['train_cfg'] = ConfigDict(cfg['train_cfg'])
    head = MODELS.build({**cfg, 'test_cfg': ConfigDict(TEST_CFG), **kwargs})
    head.init_weights()
    return head


HEAD_TYPES = (*HEADS, 'RankBasedCascadeRPNHead')


def objects_of(head, images=OBJECTS):
    """Region proposals have one class."""
    proposals = not hasattr(head, 'num_classes') or head.num_classes == 1
    return [instances(o.bboxes.tolist(), [0 if proposals else int(i) for i in o.labels]) for o in images]


def samples_of(head, images=OBJECTS):
    samples = []
    for meta, gt_instances in zip(METAS, objects_of(head, images), strict=True):
        sample = DetDataSample(metainfo=dict(meta, ori_shape=(64, 64)))
        sample.gt_instances, sample.ignored_instances = gt_instances, instances([], [])
        samples.append(sample)
    return samples


def losses_of(head, images=OBJECTS):
    return head.loss(tuple(features()), samples_of(head, images))
