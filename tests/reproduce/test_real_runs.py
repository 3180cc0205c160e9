"""Rows of the paper trained by the command for an epoch on drawn images in the layouts of COCO, LVIS and Cityscapes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

from command_line import command
from launching import free_port
from toy_layouts import toy_options

from bucketed_losses.mmdet.datasets.shapes_formats import shapes_to_cityscapes, shapes_to_coco, shapes_to_lvis
from bucketed_losses.paper import published
from bucketed_losses.reproduce.rows import row_configs

ROOT = Path(__file__).resolve().parents[2]
WRITE = {'coco': shapes_to_coco, 'lvis': shapes_to_lvis, 'cityscapes': shapes_to_cityscapes}
TOOLKITS = {'coco': 'pycocotools', 'lvis': 'lvis', 'cityscapes': 'cityscapesscripts'}


def row_of(layout):
    start = {'coco': 'atss/atss_r50_fpn_brs_'}.get(layout, f'{layout}/mask-rcnn_r50_fpn_brs_')
    return next(config for config in row_configs() if config.startswith(start))


def reproduce(folder, *arguments):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PORT': str(free_port())}
    result = subprocess.run(
        command('reproduce', *arguments), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize('layout', WRITE)
def test_a_row_is_trained_and_compared(layout, shapes_root, tmp_path):
    pytest.importorskip(TOOLKITS[layout])
    config = row_of(layout)
    data = WRITE[layout](shapes_root, tmp_path / 'data')
    options = [*toy_options(layout, data, tmp_path), 'auto_scale_lr.base_batch_size=4']
    arguments = [Path(config).name, '--out', tmp_path / 'out', '--cfg-options', *options]
    out = reproduce(tmp_path, *arguments)
    assert '1 GPU x 2 images, 1 epochs' in out and 'to 2 images by the linear rule' in out
    (scalars,) = (tmp_path / 'out').glob('*/*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    rates = [record['base_lr'] if 'base_lr' in record else record['lr'] for record in records if 'loss' in record]
    assert len(rates) == 4
    paper, last = published(config), records[-1]
    key = 'coco/bbox_mAP' if layout != 'lvis' else 'lvis/bbox_AP'
    here = 100 * last.get(key, 0.0)
    assert paper.metric == 'box AP'
    line = rf'box AP +{here:.1f} +{re.escape(paper.value)}  [+-]\d'
    assert re.search(line, out) and f'{Path(config).name} after 1 of 1 epochs, on ' in out
    # The same command trains nothing again.
    again = reproduce(tmp_path, *arguments)
    assert re.search(line, again) and len(list((tmp_path / 'out').glob('*/*/vis_data/scalars.json'))) == 1
    table = reproduce(tmp_path, '--report', '--out', tmp_path / 'out', '--cfg-options', *options)
    assert f'| {here:.1f} | {paper.value} (box) |' in table


@pytest.mark.slow
def test_torchrun_gets_the_papers_number_of_processes(shapes_root, tmp_path):
    """Here the base batch size is that of two processes: nothing is scaled."""
    data = shapes_to_coco(shapes_root, tmp_path / 'data')
    options = [*toy_options('coco', data, tmp_path), 'auto_scale_lr.base_batch_size=4']
    arguments = [Path(row_of('coco')).name, '--launcher', 'pytorch', '--out', tmp_path / 'out']
    out = reproduce(tmp_path, *arguments, '--cfg-options', *options)
    assert '2 GPUs x 2 images' in out and 'scaled' not in out and 'after 1 of 1 epochs' in out
    (scalars,) = (tmp_path / 'out').glob('*/*/vis_data/scalars.json')
    assert sum('"loss"' in line for line in scalars.read_text().splitlines()) == 2
