"""Small heads of the one-stage detectors that segment instances in boxes, for two images of 64 x 64 pixels."""

from __future__ import annotations

import math

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from small_solo_heads import METAS as SOLO_METAS

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

NUM_CLASSES = 3
STRIDES = (8, 16)
METAS = [{**SOLO_METAS[0], 'ori_shape': (64, 64), 'scale_factor': (1.0, 1.0)}] * 2
RTM = dict(
    stacked_convs=1,
    num_prototypes=2,
    dyconv_channels=2,
    anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=list(STRIDES)),
    bbox_coder=dict(type='DistancePointBBoxCoder'),
    with_objectness=False,
    pred_kernel_size=1,
    norm_cfg=dict(type='BN'),
    train_cfg=dict(assigner=dict(type='DynamicSoftLabelAssigner', topk=5)),
)
CONDINST = dict(
    stacked_convs=1,
    norm_cfg=dict(type='GN', num_groups=2),
    strides=list(STRIDES),
    regress_ranges=((-1, 32), (32, 10**8)),
    norm_on_bbox=True,
    centerness_on_reg=True,
    center_sampling=True,
    num_params=19,
)
YOLACT = dict(
    num_protos=4,
    anchor_generator=dict(
        type='AnchorGenerator', octave_base_scale=3, scales_per_octave=1, ratios=[0.5, 1.0, 2.0], strides=list(STRIDES)
    ),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
    reg_decoded_bbox=True,
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0, ignore_iof_thr=-1),
        neg_pos_ratio=3,
    ),
)
BBOX_HEADS = {
    'RTMDetInsHead': RTM,
    'RTMDetInsSepBNHead': {**RTM, 'share_conv': True},
    'CondInstBboxHead': CONDINST,
    'BoxInstBboxHead': CONDINST,
    'YOLACTHead': YOLACT,
}
DYNAMIC = dict(
    feat_channels=2,
    mask_feature_head=dict(
        in_channels=8,
        feat_channels=8,
        start_level=0,
        end_level=1,
        out_channels=2,
        mask_stride=8,
        num_stacked_convs=1,
        norm_cfg=dict(type='BN'),
    ),
    loss_mask=dict(type='DiceLoss', eps=5e-6),
)
MASK_HEADS = {
    'CondInstMaskHead': DYNAMIC,
    'BoxInstMaskHead': DYNAMIC,
    'YOLACTProtonet': dict(
        num_classes=NUM_CLASSES,
        in_channels=8,
        num_protos=4,
        proto_channels=(8, None, 4),
        proto_kernel_sizes=(3, -2, 1),
        loss_mask_weight=6.125,
    ),
}


def bbox_head(stock, loss='BucketedRSLoss', **kwargs):
    """The ranking form of a stock head; the stock head itself if ``loss`` is None."""
    torch.manual_seed(0)
    arguments = {'loss_bbox': dict(type='GIoULoss', loss_weight=2.0), **BBOX_HEADS[stock], **kwargs}
    if loss is not None:
        arguments['loss_cls'] = dict(type=loss) if isinstance(loss, str) else loss
    arguments['train_cfg'] = ConfigDict(
        dict(allowed_border=-1, pos_weight=-1, debug=False), **arguments.get('train_cfg', {})
    )
    arguments['test_cfg'] = ConfigDict(
        nms_pre=100,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=10,
        mask_thr_binary=0.5,
        mask_thr=0.5,
        iou_thr=0.5,
        top_k=20,
    )
    kind = stock if loss is None else f'RankBased{stock}'
    head = MODELS.build(dict(type=kind, num_classes=NUM_CLASSES, in_channels=8, feat_channels=8, **arguments))
    head.init_weights()
    return head


def mask_head(stock, ranked=True, **kwargs):
    """The ranking form of a stock mask head, or the stock head itself."""
    torch.manual_seed(0)
    test_cfg = ConfigDict(mask_thr=0.5, mask_thr_binary=0.5)
    kind = f'RankBased{stock}' if ranked else stock
    head = MODELS.build(dict(type=kind, test_cfg=test_cfg, **{**MASK_HEADS[stock], **kwargs}))
    head.init_weights()
    return head


def dynamic_mask(kernel, prototypes, middle, reach):
    """``(8, 8)`` logits of three layers on the way to ``middle`` and on two prototypes, pixel by pixel.

    Args:
        kernel: ``(19,)``, the weights of the layers and then their biases.
        prototypes: ``(2, 8, 8)``.
        middle: The x and y of a location, in pixels of the map.
        reach: The distance, in pixels of the map, that counts as 1.
    """
    sizes, position, parts = ((2, 4), (2, 2), (1, 2), (2,), (2,), (1,)), 0, []
    for size in sizes:
        parts.append(kernel[position : position + math.prod(size)].reshape(size))
        position += math.prod(size)
    assert position == len(kernel)
    away = [[(middle[0] - column, middle[1] - row) for column in range(8)] for row in range(8)]
    values = torch.cat([torch.tensor(away).flatten(0, 1) / reach, prototypes.flatten(1).t()], dim=1)
    for index, (weight, bias) in enumerate(zip(parts[:3], parts[3:], strict=True)):
        values = (values[:, None] * weight).sum(dim=2) + bias
        values = values.clamp(min=0) if index < 2 else values
    return values.reshape(8, 8)


def dice_loss(mask, target):
    """Dice Loss of mask logits at every fourth pixel, with the constant of the published ranking losses."""
    probabilities, target = mask.sigmoid(), torch.as_tensor(target)[2::4, 2::4].float()
    return 1 - 2 * (probabilities * target).sum() / ((probabilities**2).sum() + (target**2).sum() + 1e-5)


def features():
    """A feature map of each level."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 8, 64 // stride, 64 // stride, generator=generator) for stride in STRIDES)
