"""``make gpu``, tried on a CPU."""

from __future__ import annotations

import csv
import re
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
    done = run('--device', 'cpu', '--sizes', 2000, 5000, '--tests', few, '--no-training', '--out', tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '8 passed' in (tmp_path / 'tests.txt').read_text()
    assert f'torch {torch.__version__}' in (tmp_path / 'environment.txt').read_text()
    rows = list(csv.DictReader((tmp_path / 'benchmark.csv').open()))
    losses = ['focal', 'AP', 'BAP', 'RS', 'BRS', 'BRS by matrices', 'RS by loop']
    sets = ['BRS of 19 sets, one call', 'BRS of 19 sets, 19 calls']
    assert [row['loss'] for row in rows] == [*losses, *losses, *sets]
    one_call, calls = (int(row['launches']) for row in rows[-2:])
    assert 5 * one_call < calls
    assert all(float(row['milliseconds']) > 0 and not row['note'] for row in rows)
    assert {row['launches'] != '' for row in rows if 'loop' not in row['loss']} == {True}
    page = (tmp_path / 'gpu.md').read_text()
    assert page.startswith('# A trial run on a CPU: no figure of a GPU')
    assert 'core: 8 passed' in page and page.count('| BRS |') == 2
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 500_000


@pytest.mark.medium
def test_a_failure_is_reported_and_the_rest_goes_on(tmp_path):
    missing = 'tests/core/no_such_test.py'
    done = run('--device', 'cpu', '--sizes', 2000, '--tests', missing, '--no-training', '--out', tmp_path)
    assert done.returncode == 1
    assert 'core: failed' in done.stdout and 'something failed, see tests.txt' in done.stdout
    assert '| BRS | ' in (tmp_path / 'gpu.md').read_text()


@pytest.mark.medium
def test_the_time_is_limited(tmp_path):
    few = 'tests/core/test_gpu.py::test_half_precision'
    options = ['--minutes', 0.001, '--sizes', 2000, '--tests', few, '--no-training']
    done = run('--device', 'cpu', *options, '--out', tmp_path)
    assert done.returncode == 1 and 'stopped after' in (tmp_path / 'tests.txt').read_text()
    rows = list(csv.DictReader((tmp_path / 'benchmark.csv').open()))
    assert {row['note'] for row in rows} == {'no time left'}


FEW = ('--sizes', 2000, '--tests', 'tests/core/test_gpu.py::test_half_precision', '--minutes', 15)


@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.slow
def test_with_mmdetection_it_trains(processes, tmp_path):
    """The demo, and a step of detectors with mixed precision; two processes train one model."""
    pytest.importorskip('mmdet')
    families = ['ATSS', 'GFL']  # a config of ours, and one that is swapped
    done = run('--device', 'cpu', *FEW, '--processes', processes, '--families', *families, '--out', tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / 'families.csv').open()))
    expected = [(name, 'BRS', str(processes)) for name in families]
    assert [(row['detector'], row['trained_with'], row['processes']) for row in rows] == expected
    assert all(float(row['loss']) > 0 and row['precision'] == 'bfloat16' and not row['note'] for row in rows)
    page = (tmp_path / 'gpu.md').read_text()
    images = 8 // processes * processes
    word = 'process' if processes == 1 else 'processes'
    assert re.search(
        rf'\* demo: {processes} {word}, {16 // images} iterations, \d+ ms each, loss [\d.]+ to [\d.]+, AP', page
    )
    assert re.search(r'\| ATSS \|  \| [\d.]+ \|', page)
    assert '* families: see families.csv' in page and 'no figure of a GPU' in page
    assert 'loss_rank' in (tmp_path / 'training.txt').read_text()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 500_000


@pytest.mark.medium
def test_a_detector_that_fails_is_noted_and_the_others_go_on(tmp_path, monkeypatch):
    pytest.importorskip('mmdet')
    import family_steps

    def broken():
        raise RuntimeError('no such layer\nin the model')

    monkeypatch.setitem(family_steps.FAMILIES['PAA'], 'BRS', broken)
    # With 64 pixels, the highest level is 1 x 1, where a CPU's bfloat16 gradient of a convolution is sometimes NaN.
    options = ['--families', 'PAA', 'ATSS', '--size', '128', '128', '--cpu']
    assert family_steps.main(['--out', str(tmp_path / 'families.csv'), *options]) == 1
    rows = list(csv.DictReader((tmp_path / 'families.csv').open()))
    assert [row['note'] for row in rows] == ['RuntimeError: no such layer', '']
    assert float(rows[1]['loss']) > 0


@pytest.mark.slow
def test_every_kind_of_detector_takes_a_step(tmp_path):
    pytest.importorskip('mmdet')
    import family_steps

    assert family_steps.main(['--out', str(tmp_path / 'families.csv'), '--size', '256', '256', '--cpu']) == 0
    rows = list(csv.DictReader((tmp_path / 'families.csv').open()))
    assert [row['detector'] for row in rows] == list(family_steps.FAMILIES)


def test_a_command_that_takes_too_long_is_stopped():
    import training

    code, output = training.run([sys.executable, '-c', 'import time; print("started", flush=True); time.sleep(60)'], 2)
    assert code == 124 and output.startswith('started') and 'stopped after 2 seconds' in output


def test_the_demo_needs_no_package_beyond_mmdetection(monkeypatch, tmp_path):
    """Without its backbone's packages, a ResNet-18 takes the place of EfficientNet-Lite0."""
    pytest.importorskip('mmdet')
    import training
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    monkeypatch.setattr(training, 'find_spec', lambda name: None)
    cfg = Config.fromfile(training.write_config(tmp_path, training.ON_A_GPU, 2))
    assert cfg.train_cfg.max_epochs == 10 and cfg.train_dataloader.batch_size == 4
    assert cfg.model.backbone == dict(type='ResNet', depth=18, out_indices=(1, 2, 3))
    init_default_scope('mmdet')
    levels = MODELS.build(cfg.model).extract_feat(torch.zeros(1, 3, 64, 64))
    assert [level.shape[-1] for level in levels] == [8, 4, 2, 1, 1]


def test_make_gpu_uses_the_environment_of_make_setup(tmp_path):
    def python(*settings):
        make = ['make', '--no-print-directory', '-n', '-f', ROOT / 'Makefile', 'gpu', 'STACK=current', *settings]
        return subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()[0]

    assert python('PYTHON=') == 'python3'
    (tmp_path / '.venv/bin').mkdir(parents=True)
    (tmp_path / '.venv/bin/python').touch()
    assert python('PYTHON=') == '.venv/bin/python' and python('PYTHON=python3.12') == 'python3.12'


def test_without_torch_it_says_so(tmp_path):
    # -I -S: no packages but Python's own
    done = subprocess.run([sys.executable, '-I', '-S', *COMMAND[1:]], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == '' and not list(tmp_path.iterdir())
    assert done.stdout.startswith(f'torch is not installed for {sys.executable}; ') and done.stdout.count('\n') == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is here')
@pytest.mark.medium
def test_without_a_gpu_it_says_so(tmp_path):
    done = run('--out', tmp_path)
    assert done.returncode == 2 and 'sees no CUDA device; --device cpu tries this command without one' in done.stdout
