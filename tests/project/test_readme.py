"""The table of detectors in README: its numbers are those of the pages that they come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text()
CONFIGS = (ROOT / 'configs/README.md').read_text()
RESULTS = (ROOT / 'docs/results.md').read_text()

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

# Row of README -> the beginnings of two rows of docs/results.md, and the column of the AP.
OURS = {
    'Faster R-CNN': ('| Faster R-CNN | cross-entropy + L1 |', '| Faster R-CNN | BRS |', 4),
    'Mask R-CNN': ('| cross-entropy + L1 | 1 |', '| BRS | 1 |', 6),
    'RetinaNet': ('| RetinaNet | focal + L1 |', '| RetinaNet | BRS |', 4),
    'ATSS': ('| focal | 3 |', '| brs | 3 |', 3),
    'PAA': ('| PAA | focal + GIoU + IoU branch |', '| PAA | BRS |', 4),
    'Co-DETR': ('| BCCD | Co-DETR |', '| BCCD | BRS-DETR |', 4),
    'FCOS': ('| FCOS | focal', '| FCOS | BRS', 4),
    'GFL': ('| GFL | Quality', '| GFL | BRS', 4),
    'RTMDet': ('| RTMDet | Quality', '| RTMDet | BRS', 4),
}


def cells(line):
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


def only_line(text, beginning):
    (line,) = [line for line in text.splitlines() if line.startswith(beginning)]
    return line


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
    shown = ROWS[name][4:]
    if name not in OURS:
        assert shown == ['', '']
        return
    stock, ranking, column = OURS[name]
    assert shown == [cells(only_line(RESULTS, start))[column - 1].split()[0] for start in (stock, ranking)]


def test_the_version_is_that_of_the_package():
    from bucketed_losses.version import __version__

    assert f'version = {{{__version__}}}' in README
