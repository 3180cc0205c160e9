"""``make gpu``, tried on a CPU."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, ROOT / 'tools/gpu/check.py']


def run(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.medium
def test_it_writes_one_folder(tmp_path):
    few = 'tests/core/test_gpu.py::test_half_precision'
    done = run('--device', 'cpu', '--sizes', 2000, 5000, '--tests', few, '--out', tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '8 passed' in (tmp_path / 'tests.txt').read_text()
    assert f'torch {torch.__version__}' in (tmp_path / 'environment.txt').read_text()
    rows = list(csv.DictReader((tmp_path / 'benchmark.csv').open()))
    losses = ['focal', 'AP', 'BAP', 'RS', 'BRS', 'BRS by matrices', 'RS by loop']
    assert [row['loss'] for row in rows] == 2 * losses
    assert all(float(row['milliseconds']) > 0 and not row['note'] for row in rows)
    assert {row['launches'] != '' for row in rows if 'loop' not in row['loss']} == {True}
    page = (tmp_path / 'gpu.md').read_text()
    assert page.startswith('# A trial run on a CPU: no figure of a GPU')
    assert 'core: 8 passed' in page and page.count('| BRS |') == 2
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 500_000


@pytest.mark.medium
def test_a_failure_is_reported_and_the_rest_goes_on(tmp_path):
    done = run('--device', 'cpu', '--sizes', 2000, '--tests', 'tests/core/no_such_test.py', '--out', tmp_path)
    assert done.returncode == 1
    assert 'core: failed' in done.stdout and 'some tests failed' in done.stdout
    assert '| BRS | ' in (tmp_path / 'gpu.md').read_text()


@pytest.mark.medium
def test_the_time_is_limited(tmp_path):
    few = 'tests/core/test_gpu.py::test_half_precision'
    done = run('--device', 'cpu', '--minutes', 0.001, '--sizes', 2000, '--tests', few, '--out', tmp_path)
    assert done.returncode == 1 and 'stopped after' in (tmp_path / 'tests.txt').read_text()
    rows = list(csv.DictReader((tmp_path / 'benchmark.csv').open()))
    assert {row['note'] for row in rows} == {'no time left'}


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
@pytest.mark.medium
def test_without_a_gpu_it_says_so(tmp_path):
    done = run('--out', tmp_path)
    assert done.returncode == 2 and 'sees no CUDA device; --device cpu tries this command without one' in done.stdout
