"""Every config: parses, builds at its full size, takes one training step and predicts on small images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob('configs/*/*.py') if path.parent.name not in ('_base_',)
)
COCO_LOSSES = {'ap': 'APLoss', 'bap': 'BucketedAPLoss', 'rs': 'RSLoss', 'brs': 'BucketedRSLoss'}


def without_downloads(model):
    """Weights come from the internet; everything else stays as configured."""
    for value in list(model.values()):
        if isinstance(value, dict):
            without_downloads(value)
    if isinstance(model.get('init_cfg'), dict) and model.init_cfg.get('type') == 'Pretrained':
        model.init_cfg = None
    return model


@pytest.mark.parametrize('config', CONFIGS)
def test_config_trains_and_predicts(config):
    cfg = Config.fromfile(ROOT / config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if cfg.model.backbone.type == 'EfficientNetLite0':
        pytest.importorskip(
            'efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"'
        )
    torch.manual_seed(0)
    model = MODELS.build(without_downloads(cfg.model))
    model.init_weights()
    model.train()
    num_classes = cfg.model.bbox_head.num_classes
    inputs = demo_mm_inputs(2, [[3, 128, 128], [3, 96, 128]], num_classes=num_classes, num_items=[3, 2])
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


@pytest.mark.parametrize('name', sorted(COCO_LOSSES))
def test_coco_settings_are_the_papers(name):
    cfg = Config.fromfile(ROOT / f'configs/atss/atss_r50_fpn_{name}_4xb4-1x_coco.py')
    head = cfg.model.bbox_head
    assert head.type == 'RankBasedATSSHead' and head.loss_cls.type == COCO_LOSSES[name]
    assert set(head.loss_cls) == {'type'}, 'nothing of the focal loss is left'
    assert (head.anchor_generator.octave_base_scale, head.anchor_generator.scales_per_octave) == (4, 3)
    assert head.loss_bbox.type == 'GIoULoss' and head.loss_bbox.loss_weight == 2.0
    assert cfg.optim_wrapper.optimizer.type == 'SGD' and cfg.optim_wrapper.optimizer.lr == 0.008
    assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[1].milestones == [8, 11]


def differences(a, b, prefix=''):
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for key in keys for d in differences(a.get(key), b.get(key), f'{prefix}.{key}')]
    return [] if a == b else [prefix[1:]]


@pytest.mark.parametrize('name', sorted(COCO_LOSSES))
def test_bccd_configs_differ_in_the_loss_only(name):
    focal, ranking = (
        Config.fromfile(ROOT / f'configs/bccd/atss_efficientnet-lite0_fpn_{loss}_1xb8-12e_bccd.py')
        for loss in ('focal', name)
    )
    changed = differences(focal.to_dict(), ranking.to_dict())
    assert changed
    assert all(key.startswith(('model.bbox_head.type', 'model.bbox_head.loss_cls')) for key in changed), changed


def test_every_bccd_config_says_where_its_data_is(monkeypatch):
    monkeypatch.setenv('BCCD_ROOT', '/somewhere/else')
    for config in CONFIGS:
        if config.startswith('configs/bccd/'):
            cfg = Config.fromfile(ROOT / config)
            assert cfg.train_dataloader.dataset.data_root == '/somewhere/else/'
            assert cfg.val_evaluator.ann_file == '/somewhere/else/val.json'


def test_bccd_loads(bccd_root):
    from mmdet.registry import DATASETS

    init_default_scope('mmdet')
    cfg = Config.fromfile(ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py')
    train, val = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    assert (len(train), len(val)) == (205, 87)
    assert tuple(train.metainfo['classes']) == ('RBC', 'WBC', 'Platelets')
    item = train[0]
    assert item['inputs'].shape == (3, 240, 320)
    assert item['data_samples'].gt_instances.bboxes.tensor.max() <= 320


@pytest.mark.parametrize('name', sorted(COCO_LOSSES.values()))
def test_stock_faster_rcnn_with_one_line_changed(name):
    """A stock R-CNN head trains with nothing but its loss_cls changed; IoUs are 1, so RS losses only rank."""
    cfg = Config.fromstring(
        "_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'\n"
        "custom_imports = dict(imports=['bucketed_losses'])\n"
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
