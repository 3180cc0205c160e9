"""Small heads of the dense detectors that are not of the paper, their inputs, and what they are trained on."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData

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
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
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


ANCHORS = dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=list(STRIDES))
HEAD_CONFIGS['RankBasedTOODHead'] = dict(
    stacked_convs=2,
    norm_cfg=GN,
    anchor_generator=ANCHORS,
    train_cfg=dict(
        initial_epoch=4,
        initial_assigner=dict(type='ATSSAssigner', topk=9),
        assigner=dict(type='TaskAlignedAssigner', topk=6),
        alpha=1,
        beta=2,
    ),
)
HEAD_CONFIGS['RankBasedDDODHead'] = dict(
    stacked_convs=1,
    norm_cfg=GN,
    use_dcn=False,
    anchor_generator=ANCHORS,
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
    train_cfg=dict(
        assigner=dict(type='ATSSAssigner', topk=9, alpha=0.8), reg_assigner=dict(type='ATSSAssigner', topk=6, alpha=0.5)
    ),
)
HEAD_CONFIGS['RankBasedYOLOFHead'] = dict(
    num_cls_convs=1,
    num_reg_convs=1,
    reg_decoded_bbox=True,
    anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales=[1, 2, 4], strides=[8]),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[1.0] * 4, add_ctr_clamp=True, ctr_clamp=32),
    train_cfg=dict(assigner=dict(type='UniformAssigner', pos_ignore_thr=0.15, neg_ignore_thr=0.3, match_times=3)),
)
HEAD_CONFIGS['RankBasedFSAFHead'] = dict(
    stacked_convs=1,
    norm_cfg=GN,
    reg_decoded_bbox=True,
    anchor_generator=dict(
        type='AnchorGenerator', ratios=[1.0], octave_base_scale=1, scales_per_octave=1, strides=list(STRIDES)
    ),
    bbox_coder=dict(type='TBLRBBoxCoder', normalizer=4.0),
    train_cfg=dict(assigner=dict(type='CenterRegionAssigner', pos_scale=0.3, neg_scale=0.6, min_pos_iof=0.01)),
)
HEAD_CONFIGS['RankBasedFoveaHead'] = dict(
    stacked_convs=1,
    norm_cfg=GN,
    strides=list(STRIDES),
    base_edge_list=[16, 32],
    scale_ranges=((8, 40), (20, 64)),
    sigma=0.55,
)
HEAD_CONFIGS['RankBasedRepPointsHead'] = dict(
    stacked_convs=1,
    norm_cfg=GN,
    point_feat_channels=8,
    point_strides=list(STRIDES),
    strides=list(STRIDES),
    loss_bbox_init=dict(type='GIoULoss', loss_weight=0.5),
    loss_bbox_refine=dict(type='GIoULoss', loss_weight=3.0),
    train_cfg=dict(
        init=dict(assigner=dict(type='PointAssigner', scale=4, pos_num=1), pos_weight=-1),
        refine=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.3, neg_iou_thr=0.2, min_pos_iou=0, ignore_iof_thr=-1),
            pos_weight=-1,
        ),
    ),
)
HEAD_CONFIGS['RankBasedYOLOXHead'] = dict(
    stacked_convs=1,
    strides=list(STRIDES),
    loss_bbox=dict(type='IoULoss', mode='square', eps=1e-16, reduction='sum', loss_weight=5.0),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
)
HEAD_CONFIGS['RankBasedNASFCOSHead'] = {**HEAD_CONFIGS['RankBasedFCOSHead'], 'center_sampling': False}
HEAD_CONFIGS['RankBasedNASFCOSHead'].pop('stacked_convs')
HEAD_CONFIGS['RankBasedCenterNetUpdateHead'] = dict(
    stacked_convs=1,
    norm_cfg=GN,
    strides=list(STRIDES),
    regress_ranges=((0, 28), (20, 10**8)),
    hm_min_radius=6,
    more_pos_thresh=0.9,
)
HEAD_CONFIGS['RankBasedSSDHead'] = dict(
    in_channels=(8, 8),
    feat_channels=8,
    anchor_generator=dict(
        type='SSDAnchorGenerator',
        scale_major=False,
        strides=list(STRIDES),
        ratios=[[2], [2, 3]],
        min_sizes=[16, 32],
        max_sizes=[32, 60],
    ),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.0, ignore_iof_thr=-1)
    ),
)
HEAD_CONFIGS['RankBasedYOLOV3Head'] = dict(
    in_channels=(8, 8),
    out_channels=(8, 8),
    feat_channels=None,
    loss_bbox=None,
    featmap_strides=STRIDES,
    anchor_generator=dict(
        type='YOLOAnchorGenerator', base_sizes=[[(18, 20), (30, 28)], [(34, 38), (48, 44)]], strides=list(STRIDES)
    ),
    loss_xy=dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', loss_weight=2.0),
    loss_wh=dict(type='MSELoss', reduction='sum', loss_weight=3.0),
    train_cfg=dict(assigner=dict(type='GridAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0)),
)


def build_head(head_type, loss='BucketedRSLoss', **kwargs):
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD reads it
    specific = {**HEAD_CONFIGS.get(head_type, {}), **kwargs}
    train_cfg = ConfigDict(dict(allowed_border=-1, pos_weight=-1, debug=False), **specific.pop('train_cfg', {}))
    test_cfg = ConfigDict(
        nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=10
    )
    arguments = {
        'num_classes': NUM_CLASSES,
        'in_channels': 8,
        'feat_channels': 8,
        'loss_bbox': dict(type='GIoULoss', loss_weight=2.0),
        **specific,
    }
    head = MODELS.build(
        dict(
            type=head_type,
            loss_cls=dict(type=loss) if isinstance(loss, str) else loss,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            **{key: value for key, value in arguments.items() if value is not None},
        )
    )
    head.init_weights()
    return head


def objects(*images):
    return [
        InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels).long())
        for boxes, labels in images
    ]


OBJECTS = objects(
    ([[4, 4, 40, 44], [30, 10, 60, 50]], [0, 2]), ([[20, 20, 62, 62], [2, 2, 20, 22], [10, 30, 30, 62]], [1, 1, 0])
)


def features(head):
    """A feature map of each level of a head, for two images of 64 x 64 pixels."""
    generator = torch.Generator().manual_seed(1)
    strides = [stride[0] for stride in head.prior_generator.strides]
    return tuple(torch.randn(2, 8, 64 // stride, 64 // stride, generator=generator) for stride in strides)


def random_maps(like, scale=1.0, seed=2, uniform=False):
    """Maps of the shapes of given ones, for every level: normally distributed, or uniform in [0, scale)."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if uniform else torch.randn
    return [(scale * draw(level.shape, generator=generator)).requires_grad_() for level in like]


def at(maps, level, image, y, x):
    return maps[level][image, :, y, x]


def places(maps):
    """Level, image, y and x, in the order of MMDetection's targets per level."""
    for level, values in enumerate(maps):
        for image in range(values.size(0)):
            for y in range(values.size(2)):
                for x in range(values.size(3)):
                    yield level, image, y, x


def distance_box(point, distances):
    left, top, right, bottom = distances
    return torch.stack([point[0] - left, point[1] - top, point[0] + right, point[1] + bottom])
