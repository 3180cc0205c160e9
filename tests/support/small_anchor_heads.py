"""Small heads with anchors (ATSS, PAA, RetinaNet, RPN), what they are trained on, and what they predict."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import Prediction
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

NUM_CLASSES = 3
NAMES = ('APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss')
EACH = pytest.mark.parametrize('name', NAMES)
HEAD_TYPES = ('RankBasedATSSHead', 'RankBasedPAAHead', 'RankBasedRetinaHead', 'RankBasedRPNHead')
HEADS = pytest.mark.parametrize('head_type', HEAD_TYPES)
STDS = [0.1, 0.1, 0.2, 0.2]
MAX_IOU = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
SPECIFIC = {
    'ATSS': dict(stacked_convs=1, norm_cfg=dict(type='GN', num_groups=2), assigner=dict(type='ATSSAssigner', topk=9)),
    'PAA': dict(
        stacked_convs=1,
        norm_cfg=dict(type='GN', num_groups=2),
        assigner={**MAX_IOU, 'pos_iou_thr': 0.1, 'neg_iou_thr': 0.1},
    ),
    'Retina': dict(stacked_convs=1, norm_cfg=dict(type='GN', num_groups=2), ratios=[0.5, 1.0, 2.0], assigner=MAX_IOU),
    'RPN': dict(num_classes=1, scales_per_octave=1, ratios=[0.5, 1.0, 2.0], assigner=MAX_IOU),
}
SPECIFIC['LAD'] = SPECIFIC['PAA']


def build_head(name='BucketedRSLoss', head_type='RankBasedATSSHead', **kwargs):
    """A small head of any of the four kinds; ``name`` is a loss's type or its whole config."""
    torch.manual_seed(0)
    specific = {**SPECIFIC[head_type.removeprefix('RankBased').removesuffix('Head')]}
    assigner = specific.pop('assigner')
    anchors = dict(
        type='AnchorGenerator',
        octave_base_scale=4,
        ratios=specific.pop('ratios', [1.0]),
        scales_per_octave=specific.pop('scales_per_octave', 3),
        strides=[8, 16],
    )
    train_cfg = dict(assigner=assigner, allowed_border=-1, pos_weight=-1, debug=False)
    if 'sampler' in kwargs:
        train_cfg['sampler'] = kwargs.pop('sampler')
    head = MODELS.build(
        {
            **dict(
                type=head_type,
                num_classes=NUM_CLASSES,
                in_channels=8,
                feat_channels=8,
                anchor_generator=anchors,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=STDS),
                loss_cls=dict(type=name) if isinstance(name, str) else name,
                loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
                train_cfg=ConfigDict(train_cfg),
                test_cfg=ConfigDict(
                    nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6), max_per_img=10
                ),
            ),
            **specific,
            **kwargs,
        }
    )
    head.init_weights()
    return head


def features(size=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 8, side, side, generator=generator) for side in (size, size // 2)]


METAS = [dict(img_shape=(64, 64), pad_shape=(64, 64), batch_input_shape=(64, 64), scale_factor=(1.0, 1.0))] * 2


def instances(boxes, labels):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long)
    )


OBJECTS = [
    instances([[4, 4, 40, 44], [30, 10, 60, 50]], [0, 2]),
    instances([[20, 20, 62, 62], [2, 2, 20, 22], [10, 30, 30, 62]], [1, 1, 0]),
]


def objects_for(head):
    """RPN knows one class."""
    return [instances(o.bboxes.tolist(), [min(int(i), head.num_classes - 1) for i in o.labels]) for o in OBJECTS]


def loss_of(head, objects=None, ignore=None):
    return head.loss_by_feat(*head(features()), objects_for(head) if objects is None else objects, METAS, ignore)


def predictions_of(head, cls_scores, bbox_preds, objects=None, assigned=None):
    """What a head says of each anchor, with MMDetection's assignment; PAA's is that of a stock PAAHead.

    ``assigned`` is another assignment: labels, weights and targets of each image.
    """
    sizes = [level.shape[-2:] for level in cls_scores]
    anchors, flags = head.get_anchors(sizes, METAS, device='cpu')
    anchors = [[level.clone() for level in image] for image in anchors]
    flat_anchors = [torch.cat(image) for image in anchors]
    classes, num_priors = head.num_classes, head.num_base_priors  # a list if levels differ
    if assigned is not None:
        labels, weights, targets = assigned
    elif type(head).__name__ == 'RankBasedPAAHead':
        labels, weights, targets = stock_paa_assignment(anchors, flags, cls_scores, bbox_preds)
    else:
        result = head.get_targets(anchors, flags, objects_for(head) if objects is None else objects, METAS)
        if type(head).__name__ == 'RankBasedATSSHead':
            result = result[1:]
        labels, weights, targets = ([torch.cat(image) for image in zip(*part, strict=True)] for part in result[:3])
    predictions = []
    for image in range(2):
        index = 0
        for level in range(len(cls_scores)):
            _, _, height, width = cls_scores[level].shape
            priors = num_priors if isinstance(num_priors, int) else num_priors[level]
            for y in range(height):
                for x in range(width):
                    for prior in range(priors):
                        predictions.append(
                            Prediction(
                                cls_scores[level][image, prior * classes : (prior + 1) * classes, y, x],
                                flat_anchors[image][index],
                                bbox_preds[level][image, prior * 4 : (prior + 1) * 4, y, x],
                                int(labels[image][index]),
                                bool(weights[image][index] == 0),
                                targets[image][index],
                            )
                        )
                        index += 1
    return predictions


def stock_paa_assignment(anchors, flags, cls_scores, bbox_preds):
    """Labels, weights and targets per image, as MMDetection's own PAAHead scores and splits its candidates."""
    from mmdet.models.utils import levels_to_images

    stock = build_head(dict(type='FocalLoss', use_sigmoid=True), 'PAAHead')
    labels, weights, targets, box_weights, pos_inds, pos_gt = stock.get_targets(anchors, flags, OBJECTS, METAS)
    # A logit of 0 counts as a probability of 0.01.
    logits = [x.reshape(-1, NUM_CLASSES) + math.log(0.01 / 0.99) for x in levels_to_images(cls_scores)]
    deltas = [x.reshape(-1, 4) for x in levels_to_images(bbox_preds)]
    result = []
    for i in range(2):
        with torch.no_grad():
            (scores,) = stock.get_pos_loss(
                anchors[i], logits[i], deltas[i], labels[i], weights[i], targets[i], box_weights[i], pos_inds[i]
            )
            result.append(
                stock.paa_reassign(scores, labels[i], weights[i], box_weights[i], pos_inds[i], pos_gt[i], anchors[i])
            )
    return [r[0] for r in result], [r[1] for r in result], targets
