"""Kills, signals, damaged checkpoints and dying processes, and the runs that are resumed after them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
from launching import ROOT, environment, free_port, write_config

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from mmengine.registry import HOOKS
from training_runs import PYTHON, assert_same_weights, run, start, train, wait_for

from bucketed_losses.mmdet.engine import newest_complete_checkpoint, safe_load, why_incomplete


def kill_and_resume(folder, shapes_root, kills, seed):
    script = [str(PYTHON), str(ROOT / 'tests/support/killing.py'), str(folder), str(kills), str(seed)]
    result = subprocess.run(
        script, cwd=ROOT, env=environment(shapes_root, PYTHON), capture_output=True, text=True, timeout=1800
    )
    assert result.returncode == 0, result.stderr[-3000:]
    record = json.loads(result.stdout.splitlines()[-1])
    assert record['hits'] > 0, 'no write was hit'
    # No start goes on from less than the one before it had saved.
    assert record['resumed'] and record['resumed'] == sorted(record['resumed'])
    assert_same_weights(folder / 'whole/epoch_8.pth', folder / 'killed/epoch_8.pth')
    assert not list((folder / 'killed').glob('.*'))


@pytest.mark.slow
def test_killed_a_few_times(shapes_root, tmp_path):
    kill_and_resume(tmp_path, shapes_root, kills=4, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(shapes_root, tmp_path):
    kill_and_resume(tmp_path, shapes_root, kills=20, seed=1)


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'empty', 'unfinished pointer'])
def test_a_damaged_newest_checkpoint_is_passed_over(damage, two_epochs, shapes_root, tmp_path):
    _, finished, _ = two_epochs
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    for epoch in (1, 2):
        shutil.copy(finished / f'epoch_{epoch}.pth', work_dir)
    newest = work_dir / 'epoch_2.pth'
    (work_dir / 'last_checkpoint').write_text('' if damage == 'unfinished pointer' else str(newest))
    if damage == 'unfinished pointer':
        assert newest_complete_checkpoint(work_dir) == str(newest)
        return
    content = bytearray(newest.read_bytes())
    if damage == 'flipped':
        content[len(content) // 2] ^= 1
    newest.write_bytes(content[: {'truncated': len(content) // 2, 'flipped': None, 'empty': 0}[damage]])
    assert why_incomplete(newest) and why_incomplete(work_dir / 'epoch_1.pth') is None
    if damage != 'truncated':  # a whole run for one of them
        assert newest_complete_checkpoint(work_dir) == str(work_dir / 'epoch_1.pth')
        return
    output = run(train(two_epochs[0], work_dir, '--resume'), shapes_root)
    assert f'{newest} is not a complete checkpoint: it is truncated' in output
    assert f'Resuming from {work_dir}/epoch_1.pth.' in output and 'resumed epoch: 1, iter: 4' in output
    assert_same_weights(newest, finished / 'epoch_2.pth')
    newest.write_bytes(content[:1000])
    output = run(train(two_epochs[0], work_dir, '--resume', newest), shapes_root, check=False)
    assert f'--resume: {newest} is not a complete checkpoint: it is truncated' in output


@pytest.mark.stack
def test_sigterm_saves_and_resume_goes_on_in_the_middle_of_an_epoch(two_epochs, shapes_root, tmp_path):
    """To the process and its data loader's workers, as Slurm sends it."""
    config, finished, _ = two_epochs
    work_dir, log = tmp_path / 'run', tmp_path / 'log0'
    process = start(config, work_dir, shapes_root, 0, 1, 0, '--cfg-options', 'default_hooks.logger.interval=1')
    wait_for('Epoch(train) [1][1/4]', log, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(120) == 0, log.read_text()[-3000:]
    assert 'Stopped by a signal after iteration' in log.read_text()
    saved = safe_load(work_dir / 'preempted.pth')['meta']
    assert 1 <= saved['iter'] < 8
    output = run(train(config, work_dir, '--resume'), shapes_root)
    assert f'resumed epoch: {saved["epoch"]}, iter: {saved["iter"]}' in output
    assert_same_weights(work_dir / 'epoch_2.pth', finished / 'epoch_2.pth')
    assert not (work_dir / 'preempted.pth').exists()


def test_a_signal_to_one_process_stops_all(two_epochs, shapes_root, tmp_path):
    config, whole, killed = two_epochs[0], tmp_path / 'whole', tmp_path / 'killed'

    def processes(work_dir, *arguments):
        port = free_port()
        return [start(config, work_dir, shapes_root, rank, 2, port, *arguments) for rank in (0, 1)]

    assert [process.wait(300) for process in processes(whole)] == [0, 0]
    both = processes(killed, '--cfg-options', 'default_hooks.logger.interval=1')
    wait_for('Epoch(train) [1][1/2]', tmp_path / 'log0', both[0])
    os.kill(both[1].pid, signal.SIGTERM)
    assert [process.wait(120) for process in both] == [0, 0], (tmp_path / 'log1').read_text()[-3000:]
    assert (killed / 'preempted.pth').is_file()
    assert [process.wait(300) for process in processes(killed, '--resume')] == [0, 0]
    assert_same_weights(whole / 'epoch_2.pth', killed / 'epoch_2.pth')


def test_a_changed_loader_starts_the_epoch_over():
    from mmengine.logging import MessageHub
    from mmengine.runner import EpochBasedTrainLoop

    trained_on = []

    class Loop(EpochBasedTrainLoop):
        def run_iter(self, idx, data_batch):
            trained_on.append((idx, data_batch))

    hook = HOOKS.build(dict(type='PreemptionHook'))
    loop = Loop.__new__(Loop)
    loop.dataloader, loop._iter, loop._epoch = list(range(10)), 7, 1
    hub, warnings = MessageHub('changed loader'), []
    hub.update_info('preempted_at', (1, 3, 4))
    runner = SimpleNamespace(
        message_hub=hub,
        _train_loop=loop,
        epoch=1,
        seed=0,
        logger=SimpleNamespace(warning=warnings.append, info=print),
        call_hook=lambda stage: getattr(hook, stage)(runner),
        model=torch.nn.Linear(1, 1),
    )
    hook.before_run(runner)
    loop = runner.train_loop = runner._train_loop
    loop._runner = runner
    assert isinstance(loop, Loop)
    hook.before_train_epoch(runner)
    assert 'stopped after 3 of 4 iterations of epoch 2' in warnings[0] and loop._iter == 10
    assert loop.dataloader == list(range(10))
    hub.update_info('preempted_at', (1, 3, 10))
    loop.run_epoch()
    assert trained_on == [(i, i) for i in range(3, 10)] and len(loop.dataloader) == 10
    trained_on.clear()
    loop.run_epoch()
    assert trained_on == [(i, i) for i in range(10)]
    assert loop.dataloader == list(range(10))


@pytest.mark.parametrize(
    'arguments, message', [(dict(signals=('TERM',)), "got .'TERM',."), (dict(interval=0), 'at least 1, got 0')]
)
def test_wrong_preemption_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='PreemptionHook', **arguments))


def test_requeue(tmp_path, monkeypatch, logged):
    from bucketed_losses.mmdet.engine.slurm import requeue

    monkeypatch.delenv('SLURM_JOB_ID', raising=False)
    requeue()
    assert 'this is not a Slurm job' in logged[-1]
    monkeypatch.setenv('SLURM_JOB_ID', '77')
    monkeypatch.setenv('PATH', str(tmp_path))
    requeue()
    assert 'Job 77 was saved but not requeued' in logged[-1]
    (tmp_path / 'scontrol').write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    (tmp_path / 'scontrol').chmod(0o755)
    requeue()
    assert (tmp_path / 'called').read_text() == 'requeue 77\n'


def test_a_dying_process_ends_the_job_with_its_traceback(shapes_root, tmp_path):
    more = "custom_hooks = [dict(type='Die', rank=1, iteration=1)]\n"
    config = write_config(tmp_path, more)
    command = [ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'run']
    began = time.monotonic()
    output = run(list(map(str, command)), shapes_root, check=False, PORT=free_port())
    assert time.monotonic() - began < 300  # the group's timeout is 1800 s: nobody waited for it
    assert 'RuntimeError: this process has had enough' in output and 'record_weights.py' in output
    assert 'Root Cause' in output and 'rank      : 1' in output
