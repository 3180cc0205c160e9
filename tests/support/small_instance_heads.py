"""Small heads of the detectors with one stage that segment instances, with two images of 64 x 64 pixels."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
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
BBOX_HEADS = {'RTMDetInsHead': RTM, 'RTMDetInsSepBNHead': {**RTM, 'share_conv': True}}


def bbox_head(stock, loss='BucketedRSLoss', **kwargs):
    """The ranking form of a stock head; the stock head itself if ``loss`` is None."""
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info('iter', 0)  # BoxInst reads it
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
    )
    kind = stock if loss is None else f'RankBased{stock}'
    head = MODELS.build(dict(type=kind, num_classes=NUM_CLASSES, in_channels=8, feat_channels=8, **arguments))
    head.init_weights()
    return head


def features():
    """A feature map of each level."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 8, 64 // stride, 64 // stride, generator=generator) for stride in STRIDES)
