"""The table of detectors in README: its numbers are those of the pages that they come from."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import report_paper

from bucketed_losses.paper import published

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text()

# The columns of the paper are checked in test_paper.py.
NOT_IN_THE_PAPER = ['FCOS', 'GFL', 'RTMDet', 'VFNet', 'Deformable DETR', 'DINO', 'DDQ', 'Co-DINO', 'Sparse R-CNN']
PAPER = {**report_paper.README_ROWS, **dict.fromkeys(NOT_IN_THE_PAPER)}

with (ROOT / 'docs/figures/small_data_ap.csv').open() as file:  # test_figures.py compares it with docs/results.md
    SMALL_DATA = {(row['data'], row['detector']): [row['stock_AP'], row['BRS_AP']] for row in csv.DictReader(file)}


def cells(line):
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


ROWS = {re.split(r',', cells(line)[0])[0]: cells(line) for line in README.splitlines()
        if line.startswith('| ') and len(cells(line)) == 6 and not line.startswith('| detector')}  # fmt: skip


def test_every_row_is_checked():
    assert set(ROWS) == set(PAPER)


@pytest.mark.parametrize('name', PAPER)
def test_the_papers_ap(name):
    values = [published(config) if config else None for config in PAPER[name] or [None] * 3]
    assert ROWS[name][1:4] == [value.value if value else '' for value in values]


@pytest.mark.parametrize('name', PAPER)
def test_our_ap(name):
    measured = (
        SMALL_DATA['drawn shapes', 'Mask R-CNN, masks'] if name == 'Mask R-CNN' else SMALL_DATA.get(('BCCD', name))
    )
    assert ROWS[name][4:] == measured


def test_the_version_is_that_of_the_package():
    from bucketed_losses.version import __version__

    assert f'version = {{{__version__}}}' in README
