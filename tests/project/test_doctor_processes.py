"""The doctor as a program, in environments that work and in environments that are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from bucketed_losses import doctor

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / 'bucketed_losses' / 'doctor'

MMDET_INIT = """
mmcv_maximum_version = '2.2.0'
assert (mmcv_version >= digit_version(mmcv_minimum_version)
        and mmcv_version < digit_version(mmcv_maximum_version)), \\
    f'MMCV=={mmcv.__version__} is used but incompatible. '
"""


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the clone, without the packages that the environment of the tests adds to the path."""
    environment = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'PYTHONHOME')}
    return subprocess.run(
        command, env={**environment, **variables}, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope='module')
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment without any package."""
    folder = tmp_path_factory.mktemp('bare')
    venv.create(folder, symlinks=os.name != 'nt', with_pip=False)
    return folder / ('Scripts' if os.name == 'nt' else 'bin') / 'python'


@pytest.mark.parametrize('how', [[str(FILE)], ['-m', 'bucketed_losses.doctor']], ids=['file', 'module'])
def test_report_on_this_environment(how):
    done = run(sys.executable, *how, '--json')
    assert done.stderr == ''
    report = json.loads(done.stdout)
    problems = [finding for finding in report['findings'] if finding['problem']]
    assert done.returncode == (1 if problems else 0)
    assert all(finding['commands'] for finding in problems)
    assert report['facts']['executable'] == sys.executable
    assert bool(report['facts']['versions'].get('torch')) == (find_spec('torch') is not None)
    if find_spec('torch') is not None:
        assert report['facts']['checks']['loss on CPU'] == 'ok'


@pytest.mark.parametrize('how', [[str(FILE)], ['-m', 'bucketed_losses.doctor']], ids=['file', 'module'])
def test_runs_without_torch(bare, how):
    done = run(bare, *how)
    assert (done.returncode, done.stderr) == (1, '')
    assert 'stack                   core\n' in done.stdout
    assert '  1. torch is not installed.\n' in done.stdout
    assert done.stdout.endswith('Problems: 1\n')
    assert '\033' not in done.stdout, 'colours are for terminals'


@pytest.mark.parametrize(
    ('code', 'error'),
    [
        ('raise ImportError("libtorch_cpu.so: cannot open shared object file")', 'ImportError: libtorch_cpu.so'),
        ('import os; os.abort()', 'SIGABRT'),
        ('raise SystemExit(3)', 'the process ended with exit code 3'),
    ],
)
@pytest.mark.skipif(os.name == 'nt', reason='signals')
def test_broken_torch_becomes_a_problem(bare, tmp_path, code, error):
    (tmp_path / 'torch').mkdir()
    (tmp_path / 'torch/__init__.py').write_text(code)
    (tmp_path / 'torch/version.py').write_text("__version__ = '2.4.1+cu121'\ncuda: Optional[str] = '12.1'\n")
    done = run(bare, FILE, '--json', PYTHONPATH=str(tmp_path))
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert (report['facts']['versions']['torch'], report['facts']['cuda']) == ('2.4.1+cu121', '12.1')
    (problem,) = (finding for finding in report['findings'] if finding['problem'])
    assert problem['what'] == 'The check "loss on CPU" fails.'
    assert error in problem['why']


def test_process_that_hangs_is_ended(tmp_path, monkeypatch):
    (tmp_path / 'torch.py').write_text('import time; time.sleep(600)')
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.run_checks(['loss on CPU'], timeout=0.5) == ({'loss on CPU': 'no result within 0.5 s'}, None)


@pytest.mark.parametrize(
    ('code', 'error'),
    [
        ('from mmcv._ext import nms', "ModuleNotFoundError: No module named 'mmcv._ext'"),
        ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', 'SIGSEGV'),
        (
            'def nms(*args):\n    return None, __import__("torch").tensor([0, 1])',
            'kept the boxes [0, 1] instead of [0, 2]',
        ),
    ],
)
@pytest.mark.skipif(os.name == 'nt', reason='signals')
def test_broken_operators_become_a_problem(tmp_path, monkeypatch, code, error):
    pytest.importorskip('torch')
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').touch()
    (tmp_path / 'mmcv/ops.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    checks, _ = doctor.run_checks(['loss on CPU', 'NMS on CPU'], timeout=300)
    assert checks['loss on CPU'] == 'ok'
    assert error in checks['NMS on CPU']


@pytest.mark.skipif(sys.platform != 'linux', reason='sed -i')
def test_printed_edit_makes_mmdet_accept_mmcv(bare, tmp_path):
    """Distributions are found by their metadata alone; the edit is the one that the report prints."""
    for name, version in (('mmengine', '0.10.7'), ('mmcv', '2.2.0'), ('mmdet', '3.3.0')):
        folder = tmp_path / f'a folder/{name}-{version}.dist-info'
        folder.mkdir(parents=True)
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        (tmp_path / 'a folder' / name).mkdir()
        (tmp_path / 'a folder' / name / '__init__.py').write_text(MMDET_INIT if name == 'mmdet' else '')
    done = run(bare, FILE, PYTHONPATH=str(tmp_path / 'a folder'))
    assert 'stack                   openmmlab + mmcv 2.2\n' in done.stdout
    assert 'refuses mmcv 2.2.0: it requires mmcv <2.2.0' in done.stdout
    (edit,) = (line.split(': ', 1)[1] for line in done.stdout.splitlines() if line.strip().startswith('fix: sed'))
    subprocess.run(['bash', '-c', edit], check=True)
    report = json.loads(run(bare, FILE, '--json', PYTHONPATH=str(tmp_path / 'a folder')).stdout)
    assert report['facts']['mmdet_cap'] == '<=2.2.0'
    problems = [finding['what'] for finding in report['findings'] if finding['problem']]
    assert problems[0] == 'torch is not installed.' and not any('mmcv' in problem for problem in problems)
