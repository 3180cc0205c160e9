"""Pages whose configs are saved in a clone: they build, and they fit the data that the page describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

import torch
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope

from bucketed_losses.mmdet.models.losses import RankingLoss

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.medium


@pytest.fixture
def clone(tmp_path):
    """The folder ``configs`` of this clone, with a folder for configs of a user."""
    (tmp_path / 'configs/mine').mkdir(parents=True)
    for folder in (ROOT / 'configs').iterdir():
        (tmp_path / 'configs' / folder.name).symlink_to(folder)
    return tmp_path


def save_configs(page: str, clone: Path) -> list[Config]:
    """Save each config of a page under the name that the page gives it just before."""
    text = (ROOT / 'docs' / page).read_text()
    found = re.findall(
        r'`(configs/mine/[\w.-]+\.py)`(?:(?!configs/mine/).)*?:\n\n```python\n(_base_ = .*?)```', text, re.DOTALL
    )
    assert found
    for name, block in found:
        (clone / name).write_text(block)
    return [Config.fromfile(clone / name) for name, _ in found]


def coco_file(names: list[str]) -> dict:
    """Annotations of one image with a box of each class."""
    boxes = [
        dict(id=i, image_id=7, category_id=10 * i + 1, bbox=[5, 5, 40, 30], area=1200, iscrowd=0)
        for i, _ in enumerate(names)
    ]
    return dict(
        images=[dict(id=7, file_name='a.jpg', width=160, height=120)],
        categories=[dict(id=10 * i + 1, name=name) for i, name in enumerate(names)],
        annotations=boxes,
    )


def test_brs_detr_on_your_data(clone, monkeypatch):
    init_default_scope('mmdet')
    config, everywhere = save_configs('brs_detr_on_your_data.md', clone)
    classes = config.metainfo.classes
    (clone / 'data/mine').mkdir(parents=True)
    for name in ('train.json', 'val.json'):
        # The file may have other categories, too.
        (clone / 'data/mine' / name).write_text(json.dumps(coco_file([classes[0], 'other', *classes[1:]])))
    monkeypatch.chdir(clone)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        data = DATASETS.build(loader.dataset)
        assert data.metainfo['classes'] == tuple(classes)
        (image,) = [data.get_data_info(index) for index in range(len(data))]
        assert Path(image['img_path']) == Path('data/mine/images/a.jpg')
        assert [box['bbox_label'] for box in image['instances']] == list(range(len(classes)))
    for evaluator in (config.val_evaluator, config.test_evaluator):
        assert Path(evaluator.ann_file).is_file()
    assert config.auto_scale_lr.base_batch_size == 16 and config.optim_wrapper.optimizer.lr == 2e-4

    for cfg, scope in ((config, 'batch'), (everywhere, 'global')):
        cfg.model.backbone.init_cfg = None
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        scopes = [module.scope for module in model.modules() if isinstance(module, RankingLoss)]
        assert len(scopes) == 4 and set(scopes) == {scope}
    model.init_weights()  # MMDetection allocates some parameters without a value
    inputs = demo_mm_inputs(2, [[3, 96, 128], [3, 128, 96]], num_items=[3, 2], num_classes=len(classes))
    losses = model.train()(**model.data_preprocessor(inputs, True), mode='loss')
    assert 'loss_rank' in losses
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in losses.values())


def test_a_forgotten_num_classes_is_refused_as_the_page_says(clone):
    init_default_scope('mmdet')
    config, _ = save_configs('brs_detr_on_your_data.md', clone)
    config.model.backbone.init_cfg = None
    config.model.dense_heads.num_classes = 80
    with pytest.raises(ValueError, match='CoDETR: all heads must have the same num_classes'):
        MODELS.build(config.model)


def test_the_learning_rates_of_the_table():
    text = (ROOT / 'docs/brs_detr_on_your_data.md').read_text()
    rows = re.findall(r'^\| (\d) \S (\d) \| ([\d.e-]+) \|$', text, re.MULTILINE)
    assert len(rows) == 5
    for gpus, images, lr in rows:
        assert float(lr) == pytest.approx(2e-4 * int(gpus) * int(images) / 16)


def test_the_config_of_the_slurm_page(clone):
    init_default_scope('mmdet')
    (config,) = save_configs('slurm.md', clone)
    types = [hook.type for hook in config.custom_hooks]
    assert types == ['NumClassCheckHook', 'InvalidLossHook', 'EpochSeedHook', 'PreemptionHook']
    assert HOOKS.build(config.custom_hooks[-1]).requeue
