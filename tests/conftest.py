"""Where the tests find data that is not part of the project; they pass without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from importlib.util import find_spec
from pathlib import Path

import hypothesis_profiles  # noqa: F401  (before any module that uses hypothesis)
import pytest
from command_line import install_wheel

from bucketed_losses.stack import installed

ROOT = Path(__file__).resolve().parents[1]
for name in ('bccd', 'cards'):
    if f'{name.upper()}_ROOT' not in os.environ and (ROOT.parent / f'shared/{name}/train.json').is_file():
        os.environ[f'{name.upper()}_ROOT'] = str(ROOT.parent / f'shared/{name}')

# Most tests in these folders start processes. Their files come first, so that at the end no worker has a long file left
# while the others have nothing to do.
FOLDERS_OF_LONG_FILES = ('study', 'tools', 'cli', 'project')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    long = tuple(ROOT / 'tests' / name for name in FOLDERS_OF_LONG_FILES)
    items.sort(key=lambda item: not any(item.path.is_relative_to(folder) for folder in long))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--record', type=Path, help='write counts and versions of this run to a JSON file')


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What tools/benchmarks/report_compatibility.py makes the compatibility page of."""
    path = config.getoption('--record')
    if path is None or hasattr(config, 'workerinput'):
        return
    names = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection')
    versions = {'Python': '.'.join(map(str, sys.version_info[:3]))}
    versions |= {name: found for name in names if (found := installed(name)) is not None}
    counts = {key: len(terminalreporter.stats.get(key, [])) for key in ('passed', 'failed', 'error', 'skipped')}
    record = {
        'stack': Path(sys.prefix).name.removeprefix('.venv').removeprefix('-') or 'current',
        'date': time.strftime('%Y-%m-%d', time.gmtime()),
        'selection': config.getoption('-m'),
        'versions': versions,
        **counts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + '\n')


@pytest.fixture(scope='session')
def bccd_root() -> str:
    """The folder of BCCD, or a skip."""
    root = os.environ.get('BCCD_ROOT')
    if root is None or not Path(root, 'train.json').is_file():
        pytest.skip('BCCD is not here: set BCCD_ROOT to its folder')
    return root


@pytest.fixture(scope='session')
def cards_root() -> str:
    """The folder of the playing cards, or a skip."""
    root = os.environ.get('CARDS_ROOT')
    if root is None or not Path(root, 'train.json').is_file():
        pytest.skip('the playing cards are not here: set CARDS_ROOT to their folder')
    return root


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small set of drawn shapes."""
    pytest.importorskip('mmdet')
    from bucketed_losses.mmdet.datasets.shapes import ShapesSpec, make_shapes

    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', ShapesSpec(num_train=8, num_val=4, size=96))


@pytest.fixture(scope='session')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this package."""
    folder = tmp_path_factory.mktemp('wheel')
    # A copy, so that no file of an earlier build gets in.
    ignored = shutil.ignore_patterns('.*', 'build', 'dist', '*.egg-info', '__pycache__', 'data', 'tests', 'work_dirs')
    shutil.copytree(ROOT, folder / 'source', ignore=ignored)
    build = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '--no-index']
    subprocess.run([*build, '-w', folder, folder / 'source'], check=True, capture_output=True)
    (package,) = folder.glob('*.whl')
    return package


@pytest.fixture(scope='session')
def python_with_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment where the package is installed from its wheel, beside MMDetection."""
    pytest.importorskip('mmdet')
    folder = tmp_path_factory.mktemp('with_wheel')
    venv.create(folder / 'venv', with_pip=False, symlinks=True)
    (site_packages,) = folder.glob('venv/lib/python*/site-packages')
    # Everything else comes from this environment; the installed package is found first.
    main = Path(find_spec('mmdet').origin).parents[1]
    # setuptools brings the module distutils, which Python 3.12 dropped and MMEngine 0.10 imports, by such a file too.
    distutils = main / 'distutils-precedence.pth'
    lines = [str(main), *([distutils.read_text().strip()] if distutils.is_file() else [])]
    (site_packages / 'everything_else.pth').write_text('\n'.join(lines) + '\n')
    python = folder / 'venv/bin/python'
    install_wheel(wheel, python)
    where = [python, '-c', 'import bucketed_losses as b; print(b.__file__)']
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=folder, env=environment).stdout
    assert found.startswith(str(site_packages)), found
    return python


@pytest.fixture(scope='session')
def mim(request: pytest.FixtureRequest) -> list:
    """The command ``mim`` of an environment where the package is installed from its wheel."""
    if find_spec('mim') is None:
        pytest.skip('needs OpenMIM: pip install openmim')
    if installed('onedl-mim') is not None:
        pytest.skip('onedl-mim 0.5 looks for the tools of an installed package in its .dist-info folder')
    return [request.getfixturevalue('python_with_wheel'), '-c', 'from mim.cli import cli; cli()']
