"""Times in the layout of the paper's tables: rows of the paper, small detectors with their losses, and the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

import measure_paper_rows as tool
from mmengine.config import Config
from page_blocks import block_of
from tables import read_csv

from bucketed_losses.paper import figures, published

ROOT = Path(__file__).resolve().parents[2]


def test_every_row_that_the_paper_has_timed_with_resnet_50_is_measured():
    rows = [config for timed in tool.timed_rows(list(tool.SMALL)).values() for config, _ in timed]
    wanted = {
        figure.config
        for figure in figures(metric='s/iter', source='paper', dataset='COCO', backbone='R-50')
        if figure.table in ('Table 1', 'Table 2', 'Table 5', 'Sec. 6.2') and figure.loss in ('AP', 'BAP', 'RS', 'BRS')
    }
    assert len(rows) == len(set(rows)) and set(rows) == wanted
    assert {'atss/atss_r50_fpn_ap_4xb4-1x_coco', 'brs_detr/rs-detr_r50_8xb2-12e_coco'} <= wanted
    assert [row['config'] for row in read_csv(tool.CSV)] == rows


@pytest.mark.parametrize('small', tool.SMALL.values())
def test_every_classification_loss_is_the_one_of_the_row(small):
    model = Config.fromfile(ROOT / f'configs/{small}.py').model.to_dict()
    count = str(model).count("'BucketedRSLoss'")
    assert count >= (1 if '/atss' in small or '/paa' in small else 2)
    changed = str(tool.with_loss(model, 'AP'))
    assert changed.count("'APLoss'") == count and 'Bucketed' not in changed
    assert tool.with_loss(model, 'BRS') == model


def test_the_row_of_a_detector(monkeypatch):
    seen = {}

    def measured(configs, iterations, with_loop):
        for config in configs:
            seen[Path(config).stem] = Config.fromfile(config).model.bbox_head.loss_cls.type
        times = dict(seconds_per_iteration=2.0, seconds_in_losses=0.5, seconds_by_loops=1.25)
        return dict.fromkeys(configs, times)

    monkeypatch.setattr(tool, 'measure_times', measured)
    rows = tool.measure(tool.timed_rows(['atss']), 1)
    assert list(seen.values()) == ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss']
    assert [row['seconds_with_loop'] for row in rows] == ['2.750', '', '2.750', '']
    exact, bucketed = tool.table(rows).splitlines()[4:6]
    paper = [published(f'atss/atss_r50_fpn_{loss}_4xb4-1x_coco', 's/iter').value for loss in ('ap', 'bap')]
    assert exact == f'| Table 1 | ATSS | AP | {paper[0]} | BCCD | 2.00 | 500.0 | 2.75 | 1250.0 |'
    assert bucketed == f'| Table 1 | ATSS | BAP | {paper[1]} | BCCD | 2.00 | 500.0 |  |  |'


def test_the_page_has_what_was_measured():
    text = tool.table(read_csv(tool.CSV))
    assert block_of(tool.PAGE, tool.BLOCK) == text
    assert re.search(r'^Machine: .+, torch \d', text)
