"""The table of detectors in README: its numbers are those of the pages that they come from."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text()
CONFIGS = (ROOT / 'configs/README.md').read_text()

# Row of README -> config of the stock loss, RS and BRS Loss, whose AP on COCO configs/README.md quotes from the paper.
PAPER = {
    'Faster R-CNN': ['faster-rcnn_r50_fpn_4xb4-1x_coco', 'faster-rcnn_r50_fpn_rs_4xb4-1x_coco',
                     'faster-rcnn_r50_fpn_brs_4xb4-1x_coco'],
    'Cascade R-CNN': [None, 'cascade-rcnn_r50_fpn_rs_4xb4-1x_coco', 'cascade-rcnn_r50_fpn_brs_4xb4-1x_coco'],
    'Mask R-CNN': [None, 'mask-rcnn_r50_fpn_rs_4xb4-1x_coco', 'mask-rcnn_r50_fpn_brs_4xb4-1x_coco'],
    'RetinaNet': [None, None, 'retinanet_r50_fpn_brs_4xb4-1x_coco'],
    'ATSS': ['atss_r50_fpn_4xb4-1x_coco', 'atss_r50_fpn_rs_4xb4-1x_coco', 'atss_r50_fpn_brs_4xb4-1x_coco'],
    'PAA': [None, 'paa_r50_fpn_rs_4xb4-1x_coco', 'paa_r50_fpn_brs_4xb4-1x_coco'],
    'Co-DETR': ['co-deformable-detr_r50_8xb2-12e_coco', None, 'brs-detr_r50_8xb2-12e_coco'],
    'FCOS': [None] * 3,
    'GFL': [None] * 3,
    'RTMDet': [None] * 3,
    'VFNet': [None] * 3,
}  # fmt: skip

with (ROOT / 'docs/figures/small_data_ap.csv').open() as file:  # test_figures.py compares it with docs/results.md
    SMALL_DATA = {(row['data'], row['detector']): [row['stock_AP'], row['BRS_AP']] for row in csv.DictReader(file)}
NOT_TRAINED = {'Cascade R-CNN', 'VFNet'}


def cells(line):
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


ROWS = {re.split(r',', cells(line)[0])[0]: cells(line) for line in README.splitlines()
        if line.startswith('| ') and len(cells(line)) == 6 and not line.startswith('| detector')}  # fmt: skip


def test_every_row_is_checked():
    assert set(ROWS) == set(PAPER)


@pytest.mark.parametrize('name', PAPER)
def test_the_papers_ap(name):
    quoted = {re.match(r'\[?([\w/.-]+)', cells(line)[0]).group(1).split('/')[-1]: cells(line)[2]
              for line in CONFIGS.splitlines() if line.startswith('| [')}  # fmt: skip
    for shown, config in zip(ROWS[name][1:4], PAPER[name], strict=True):
        assert shown == ('' if config is None else quoted[config].split()[0])


@pytest.mark.parametrize('name', PAPER)
def test_our_ap(name):
    measured = (
        SMALL_DATA['drawn shapes', 'Mask R-CNN, masks'] if name == 'Mask R-CNN' else SMALL_DATA.get(('BCCD', name))
    )
    assert (measured is None) == (name in NOT_TRAINED)
    assert ROWS[name][4:] == (measured or ['', ''])


def test_the_version_is_that_of_the_package():
    from bucketed_losses.version import __version__

    assert f'version = {{{__version__}}}' in README
