"""Small box heads and RoI heads, and what they are trained on."""

from __future__ import annotations

import torch
from head_reference import STDS, Prediction
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

NUM_CLASSES = 3
SIZE = 128
DICE = dict(type='DiceLoss', eps=5e-6)
UNLIMITED = dict(type='RandomSampler', num=1000000, pos_fraction=1.0, add_gt_as_proposals=True)


def bbox_head_cfg(name='BucketedRSLoss', head_type='RankBasedShared2FCBBoxHead', agnostic=False, **kwargs):
    if head_type == 'RankBasedConvFCBBoxHead':
        kwargs = dict(num_cls_fcs=1, num_reg_fcs=1, **kwargs)
    if head_type == 'RankBasedDoubleConvFCBBoxHead':
        kwargs = dict(num_convs=1, num_fcs=1, conv_out_channels=8, **kwargs)
    if head_type == 'RankBasedSCNetBBoxHead':
        kwargs = dict(num_shared_fcs=1, **kwargs)
    if head_type != 'RankBasedBBoxHead':
        kwargs = dict(fc_out_channels=8, **kwargs)
    return dict(
        type=head_type,
        in_channels=4,
        roi_feat_size=3,
        num_classes=NUM_CLASSES,
        reg_class_agnostic=agnostic,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=list(STDS)),
        loss_cls=dict(type=name),
        **{'loss_bbox': dict(type='GIoULoss', loss_weight=1.5), **kwargs},
    )


def build(cfg):
    torch.manual_seed(0)
    module = MODELS.build(cfg)
    module.init_weights()
    return module


def random_boxes(num, generator):
    corner = torch.rand(num, 2, generator=generator) * 60
    return torch.cat([corner, corner + 15 + 45 * torch.rand(num, 2, generator=generator)], dim=1)


def random_rois(num=40, num_pos=12):
    """Arguments of a box head's ``loss`` but for the predictions; one RoI is ignored."""
    generator = torch.Generator().manual_seed(0)
    priors = random_boxes(num, generator)
    rois = torch.cat([(torch.arange(num) % 2)[:, None].float(), priors], dim=1)
    labels = torch.full((num,), NUM_CLASSES)
    labels[:num_pos] = torch.randint(0, NUM_CLASSES, (num_pos,), generator=generator)
    weights = torch.ones(num)
    weights[-1] = 0
    targets = torch.zeros(num, 4)
    targets[:num_pos] = priors[:num_pos] + 8 * torch.randn(num_pos, 4, generator=generator)
    return rois, labels, weights, targets, (targets > 0).float()


def predictions_of_rois(cls_score, bbox_pred, rois, labels, weights, targets, *_):
    """What a box head is given for each RoI; the arguments are those of its ``loss``.

    An RoI has the deltas of its class if boxes are specific to classes, and deltas of 0 if the head predicts none.
    """
    num = len(rois)
    deltas = torch.zeros(num, 1, 4) if bbox_pred is None else bbox_pred.view(num, -1, 4)
    return [
        Prediction(
            cls_score[i], rois[i, 1:], deltas[i, label if label < deltas.size(1) else 0], label, bool(weights[i] == 0),
            targets[i],
        )
        for i, label in enumerate(labels.tolist())
    ]  # fmt: skip


def roi_head_cfg(
    name='BucketedRSLoss', stages=0, mask=True, sampler=UNLIMITED, agnostic_mask=False, loss_mask=None, **kwargs
):
    """A small RoI head; ``stages`` 0 is ``RankBasedRoIHead``."""
    extractor = dict(type='SingleRoIExtractor', out_channels=4, featmap_strides=[8])
    train = [
        dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=thr, neg_iou_thr=thr, min_pos_iou=thr, match_low_quality=False
            ),
            sampler=sampler,
            mask_size=8,
            pos_weight=-1,
            debug=False,
        )
        for thr in ([0.5, 0.6, 0.7][:stages] or [0.5])
    ]
    cfg = dict(
        type='RankBasedRoIHead',
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=1), **extractor),
        bbox_head=bbox_head_cfg(name),
        train_cfg=ConfigDict(train[0]),
        test_cfg=ConfigDict(
            score_thr=0.4, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10, mask_thr_binary=0.5
        ),
    )
    if mask:
        cfg.update(
            mask_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=4, sampling_ratio=1), **extractor),
            mask_head=dict(
                type='RankBasedFCNMaskHead',
                num_convs=1,
                in_channels=4,
                conv_out_channels=4,
                num_classes=NUM_CLASSES,
                class_agnostic=agnostic_mask,
                loss_mask=loss_mask,
            ),
        )
    if stages:
        cfg.update(
            type='RankBasedCascadeRoIHead',
            num_stages=stages,
            stage_loss_weights=[1.0] * stages,
            bbox_head=[bbox_head_cfg(name, agnostic=True)] * stages,
            train_cfg=[ConfigDict(stage) for stage in train],
        )
    return {**cfg, **kwargs}


def batch(objects_per_image=(2, 3), num_proposals=30, near=True):
    """Features, proposals near and far from the objects, and data samples with boxes and masks."""
    generator = torch.Generator().manual_seed(4)
    x = (torch.randn(len(objects_per_image), 4, SIZE // 8, SIZE // 8, generator=generator),)
    proposals, samples = [], []
    for num in objects_per_image:
        boxes = random_boxes(num, generator)
        some = [random_boxes(num_proposals, generator)]
        if near and num:
            jitter = torch.randn(num_proposals, 4, generator=generator)
            some.append(boxes.repeat(num_proposals // num + 1, 1)[:num_proposals] + 3 * jitter)
        proposals.append(InstanceData(bboxes=torch.cat(some)))
        masks = torch.zeros(num, SIZE, SIZE)
        for i, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
            masks[i, y1 : (y1 + y2) // 2, x1:x2] = 1
        sample = DetDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(0, NUM_CLASSES, (num,), generator=generator),
            masks=BitmapMasks(masks.numpy().astype('uint8'), SIZE, SIZE),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    return x, proposals, samples
