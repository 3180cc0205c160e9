"""tools/build_mmcv.py: how sources are joined and mended, and that what is installed works."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip('torch')

import build_mmcv

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = ['active_rotated_filter.cpp', 'nms.cpp', 'roi_align.cpp', 'pybind.cpp']
KERNELS = ['nms.cpp', 'roi_align.cpp', 'roi_align_rotated.cpp', 'rotated_feature_align.cpp']
KERNELS += ['psamask.cpp', 'box_iou_quadri.cpp', 'bezier_align.cpp']


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / build_mmcv.CSRC
    for name in [*OPERATORS, *(f'cpu/{name}' for name in KERNELS), 'cuda/nms_cuda.cu', 'cuda/cudabind.cpp']:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'// {name}\n')
    return tmp_path


def includes(unit):
    return [line.split('"')[1] for line in unit.read_text().splitlines() if '"' in line]


def test_every_source_is_in_one_unit(source):
    assert build_mmcv.join_sources(source) == 7
    folder = source / build_mmcv.CSRC
    # What setup.py finds with its patterns.
    operators, kernels = sorted(folder.glob('*.cpp')), sorted(folder.glob('cpu/*.cpp'))
    assert len(operators) == 3 and len(kernels) == 4 and folder / 'pybind.cpp' in operators
    joined = [name for unit in operators if unit.name != 'pybind.cpp' for name in includes(unit)]
    assert sorted(joined) == sorted(name.replace('.cpp', '.inc') for name in OPERATORS if name != 'pybind.cpp')
    groups = [includes(unit) for unit in kernels]
    assert sorted(name for group in groups for name in group) == sorted(
        name.replace('.cpp', '.inc') for name in KERNELS
    )
    assert ['bezier_align.inc', 'box_iou_quadri.inc', 'psamask.inc'] in groups
    for unit in (*operators, *kernels):
        for name in includes(unit) if unit.name != 'pybind.cpp' else ():
            assert unit.read_text().startswith('#include <torch/extension.h>')
            assert (unit.parent / name).read_text().startswith('// ')
    assert (folder / 'cuda/nms_cuda.cu').is_file() and (folder / 'cuda/cudabind.cpp').is_file()


def test_the_version_is_found_on_python_3_13(tmp_path):
    """``exec`` without a scope writes to ``locals()`` up to Python 3.12 only."""
    (tmp_path / 'version.py').write_text("__version__ = '2.1.0'\n")
    setup = tmp_path / 'setup.py'
    setup.write_text(
        'def get_version():\n'
        "    version_file = 'version.py'\n"
        "    with open(version_file, encoding='utf-8') as f:\n"
        "        exec(compile(f.read(), version_file, 'exec'))\n"
        "    return locals()['__version__']\n\n\n"
        'print(get_version())\n'
    )
    build_mmcv.mend_setup(setup)
    result = subprocess.run([sys.executable, setup], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == '2.1.0\n'


def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(tmp_path))
    with pytest.raises(RuntimeError, match=r'mmcv==0\.0\.1 could not be downloaded'):
        build_mmcv.build('mmcv==0.0.1', tmp_path / 'out', tmp_path / 'log')


def test_what_a_wheel_depends_on():
    key = build_mmcv.wheel_key('mmcv==2.1.0')
    assert key.startswith('mmcv==2.1.0-torch2.') and f'cp{sys.version_info[0]}{sys.version_info[1]}' in key
    assert key.endswith('-g0-O2') and '/' not in key


@pytest.mark.skipif(find_spec('mmcv') is None, reason='needs mmcv')
def test_the_installed_operators_work():
    build_mmcv.check()
