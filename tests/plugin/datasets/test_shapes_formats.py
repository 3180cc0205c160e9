"""Shapes as LVIS and Cityscapes: MMDetection's own data sets and metrics read them, and the configs train on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run_verb
from toy_layouts import toy_options

pytest.importorskip('mmdet')

from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools import mask as mask_utils

import bucketed_losses.mmdet  # noqa: F401  (fixes the toolkits)
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.datasets.shapes_formats import CITYSCAPES_IDS, shapes_to_cityscapes, shapes_to_lvis

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {
    'lvis': 'configs/lvis/mask-rcnn_r50_fpn_brs_4xb4-sample1e-3-ms-1x_lvis-v1.py',
    'cityscapes': 'configs/cityscapes/mask-rcnn_r50_fpn_brs_4xb4-12e_cityscapes.py',
}
NAMES = {
    'lvis': dict(disc='plate', square='box', triangle='triangle_(musical_instrument)', star='starfish'),
    'cityscapes': dict(disc='car', square='truck', triangle='person', star='bicycle'),
}
FORMATS = pytest.mark.parametrize('layout', sorted(CONFIGS))


@pytest.fixture(scope='module')
def sets(shapes_root, tmp_path_factory):
    """The same few shapes in both layouts."""
    folder = tmp_path_factory.mktemp('formats')
    return {
        'lvis': shapes_to_lvis(shapes_root, folder / 'lvis'),
        'cityscapes': shapes_to_cityscapes(shapes_root, folder / 'cityscapes'),
    }


@pytest.fixture(autouse=True)
def packages(request):
    layout = request.node.callspec.params['layout']
    pytest.importorskip({'lvis': 'lvis', 'cityscapes': 'cityscapesscripts'}[layout])


def load(layout, sets):
    from bucketed_losses.mmdet.engine import replace_data_root

    cfg = Config.fromfile(ROOT / CONFIGS[layout])
    init_default_scope('mmdet')
    replace_data_root(cfg, str(sets[layout]))
    return cfg


@FORMATS
def test_datasets_read_them(layout, sets, shapes_root):
    cfg = load(layout, sets)
    for split in ('train', 'val'):
        dataset_cfg = cfg[f'{split}_dataloader'].dataset
        dataset_cfg = dataset_cfg.get('dataset', dataset_cfg)
        dataset_cfg.filter_cfg = None
        dataset = DATASETS.build(dataset_cfg)
        truth = json.loads((shapes_root / f'annotations/{split}.json').read_text())
        assert len(dataset) == len(truth['images'])
        assert len(dataset.metainfo['classes']) == {'lvis': 1203, 'cityscapes': 8}[layout]
        found = [i for index in range(len(dataset)) for i in dataset.get_data_info(index)['instances']]
        assert len(found) == len(truth['annotations'])
        names = Counter(dataset.metainfo['classes'][i['bbox_label']] for i in found)
        shapes = {category['id']: category['name'] for category in truth['categories']}
        assert names == Counter(NAMES[layout][shapes[a['category_id']]] for a in truth['annotations'])
        item = dataset[0]
        assert item['data_samples'].gt_instances.masks.masks.any() and item['inputs'].shape[0] == 3


@FORMATS
def test_tool_writes_them(layout, tmp_path):
    arguments = ['--format', layout, '--num-train', '2', '--num-val', '1', '--size', '64']
    run_verb('shapes', '--out', tmp_path / 'set', *arguments)
    found = {path.relative_to(tmp_path / 'set').parts[0] for path in (tmp_path / 'set').rglob('*.*')}
    expected = {'lvis': {'train2017', 'val2017'}, 'cityscapes': {'leftImg8bit', 'gtFine'}}[layout]
    assert found == expected | {'annotations'}
    with pytest.raises(UserError, match='exists already'):
        run_verb('shapes', '--out', tmp_path / 'set', *arguments)


def truth_as_predictions(dataset, metric, scores):
    """Feed a metric the ground truth of every image, as a perfect detector would predict it."""
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        size = (info['height'], info['width'])
        masks = []
        for instance in info['instances']:
            rle = instance['mask']
            if isinstance(rle, list):
                rle = mask_utils.merge(mask_utils.frPyObjects(rle, *size))
            elif isinstance(rle['counts'], str):
                rle = {**rle, 'counts': rle['counts'].encode()}
            masks.append(mask_utils.decode(rle))
        boxes = torch.tensor([i['bbox'] for i in info['instances']])
        metric.process(
            {},
            [
                dict(
                    img_id=info['img_id'],
                    img_path=info['img_path'],
                    ori_shape=size,
                    pred_instances=dict(
                        bboxes=boxes,
                        labels=torch.tensor([i['bbox_label'] for i in info['instances']]),
                        scores=torch.full((len(boxes),), scores),
                        masks=torch.from_numpy(np.stack(masks)).bool(),
                    ),
                )
            ],
        )


@FORMATS
def test_perfect_predictions_have_ap_1(layout, sets, tmp_path):
    """The metrics of the configs, on predictions equal to the ground truth; a wrong class scores 0."""
    cfg = load(layout, sets)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    evaluator = cfg.val_evaluator
    if layout == 'cityscapes':
        evaluator = evaluator[1]
        assert evaluator.type == 'CityScapesMetric'
        evaluator.outfile_prefix = str(tmp_path)
    metric = METRICS.build(evaluator)
    metric.dataset_meta = dataset.metainfo
    truth_as_predictions(dataset, metric, 0.9)
    result = metric.evaluate(len(dataset))
    keys = ['lvis/bbox_AP', 'lvis/segm_AP'] if layout == 'lvis' else ['cityscapes/mAP', 'cityscapes/AP@50']
    for key in keys:
        assert result[key] == pytest.approx(1.0, abs=0.02), result


@FORMATS
def test_an_existing_folder_is_not_touched(layout, sets, shapes_root):
    with pytest.raises(FileExistsError, match='exists already'):
        {'lvis': shapes_to_lvis, 'cityscapes': shapes_to_cityscapes}[layout](shapes_root, sets[layout])


@FORMATS
def test_config_trains_and_evaluates(layout, sets, tmp_path):
    """tools/train.py on the config at full model size: one epoch on few small images, then MMDetection's evaluation."""
    options = toy_options(layout, sets[layout], tmp_path)
    run = subprocess.run(
        [sys.executable, 'tools/train.py', CONFIGS[layout], '--work-dir', tmp_path / 'run', '--cfg-options', *options],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    assert len(losses) == 4 and all(np.isfinite(losses)), losses
    assert all(record['loss_mask'] > 0 for record in records if 'loss' in record)
    keys = {'lvis': ['lvis/bbox_AP', 'lvis/segm_AP'], 'cityscapes': ['coco/segm_mAP', 'cityscapes/mAP']}[layout]
    assert all(0 <= records[-1][key] <= 1 for key in keys), records[-1]


@pytest.mark.parametrize('layout', ['cityscapes'])
def test_cityscapes_ids_are_the_toolkits(layout):
    from cityscapesscripts.helpers.labels import name2label

    assert {name: name2label[name].id for name in CITYSCAPES_IDS} == CITYSCAPES_IDS
    assert name2label['road'].id == 7
