"""Where the tests find data that is not part of the project; they pass without it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))
if 'BCCD_ROOT' not in os.environ and (ROOT.parent / 'shared/bccd/train.json').is_file():
    os.environ['BCCD_ROOT'] = str(ROOT.parent / 'shared/bccd')


@pytest.fixture(scope='session')
def bccd_root() -> str:
    """The folder of BCCD, or a skip."""
    root = os.environ.get('BCCD_ROOT')
    if root is None or not Path(root, 'train.json').is_file():
        pytest.skip('BCCD is not here: set BCCD_ROOT to its folder')
    return root


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small set of drawn shapes."""
    pytest.importorskip('mmdet')
    from bucketed_losses.datasets.shapes import ShapesSpec, make_shapes

    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', ShapesSpec(num_train=8, num_val=4, size=96))
