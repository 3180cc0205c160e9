"""Small heads of SOLO and SOLOv2, with two images of 64 x 64 pixels and their masks."""

from __future__ import annotations

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import bucketed_losses.mmdet  # noqa: F401  (registers the heads)

NUM_CLASSES = 3
GRIDS = (8, 4)
GN = dict(type='GN', num_groups=2)
ACTIVATED = dict(loss_mask=dict(type='DiceLoss', use_sigmoid=True, activate=False, loss_weight=3.0))
HEADS = {
    'RankBasedSOLOHead': {},
    'RankBasedDecoupledSOLOHead': ACTIVATED,
    'RankBasedDecoupledSOLOLightHead': ACTIVATED,
    'RankBasedSOLOV2Head': dict(
        mask_feature_head=ConfigDict(
            feat_channels=8, start_level=0, end_level=1, out_channels=4, mask_stride=4, norm_cfg=GN
        )
    ),
}


def build_head(head_type, loss='BucketedRSLoss', **kwargs):
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type=head_type,
            num_classes=NUM_CLASSES,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            strides=[8, 16],
            scale_ranges=((1, 40), (30, 64)),
            pos_scale=0.5,
            num_grids=list(GRIDS),
            loss_cls=dict(type=loss) if isinstance(loss, str) else loss,
            norm_cfg=GN,
            **{'loss_mask': dict(type='DiceLoss', use_sigmoid=True, loss_weight=3.0), **HEADS[head_type], **kwargs},
        )
    )
    head.init_weights()
    return head


def features():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 8, side, side, generator=generator) for side in (16, 8))


def objects(*images):
    """Filled boxes with rounded corners."""
    batch = []
    for boxes, labels in images:
        masks = np.zeros((len(boxes), 64, 64), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[top:bottom, left:right] = 1
            mask[top : top + 3, left : left + 3] = 0
        batch.append(
            InstanceData(
                bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                labels=torch.tensor(labels).long(),
                masks=BitmapMasks(masks, 64, 64),
            )
        )
    return batch


# The first two objects of the second image share cells.
OBJECTS = objects(
    ([[4, 4, 40, 44], [30, 10, 60, 50]], [0, 2]),
    ([[14, 12, 62, 60], [20, 20, 50, 52], [2, 2, 20, 22]], [1, 2, 0]),
)
METAS = [dict(img_shape=(64, 64), pad_shape=(64, 64), batch_input_shape=(64, 64))] * 2
