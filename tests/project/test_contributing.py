"""docs/contributing.md: its example of a head works outside of this package, as a newcomer would use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/contributing.md').read_text()

CONFIG = """
_base_ = 'mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py'
custom_imports = dict(imports=['bucketed_losses.mmdet', 'own_fovea_head'], allow_failed_imports=False)
model = dict(bbox_head=dict(type='OwnFoveaHead'))
"""

STEP = """
import sys
from mmengine.config import Config
from swap_survey import train_one_step
print(*sorted(train_one_step(Config.fromfile(sys.argv[1]))))
"""


def test_the_example_of_a_head_is_swapped_and_trains(tmp_path):
    (block,) = (block for block in re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL) if '@ranking_head(' in block)
    (tmp_path / 'own_fovea_head.py').write_text(block)
    (tmp_path / 'own_fovea.py').write_text(CONFIG)
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / 'tests/support')))
    environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}

    def run(*command):
        result = subprocess.run(
            [sys.executable, *map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    printed = run('-m', 'bucketed_losses', 'swap', 'own_fovea.py', '--loss', 'brs', '--out', 'brs.py', '--print-diff')
    assert "+ model.bbox_head.type = 'RankBasedOwnFoveaHead'" in printed
    assert run('-c', STEP, 'brs.py').split()[-4:] == ['loss', 'loss_bbox', 'loss_rank', 'loss_sort']


def test_the_words_of_errors_are_those_of_the_code():
    """The table of problems quotes messages that a search in the code finds."""
    code = '\n'.join(path.read_text() for path in (ROOT / 'bucketed_losses/mmdet').rglob('*.py'))
    table = PAGE.partition('### If something goes wrong')[2].partition('\n## ')[0]
    quoted = re.findall(r'^\| `(.+?)` \|', table, re.MULTILINE)
    assert len(quoted) == 3
    for text in quoted:
        assert text.removeprefix('… ') in code, text
