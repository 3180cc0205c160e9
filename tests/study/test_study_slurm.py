"""Studies on a real Slurm of one node; ``make test-slurm`` installs what it needs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from threading import Thread

import pytest
from slurm_cluster import PARTITION, SlurmCluster, why_not

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')
pytest.importorskip('submitit', reason='jobs: pip install "bucketed-losses[slurm]"')
from studies import ROOT, study_command, wait_for, write_small_config

from bucketed_losses.study.commands import Command
from bucketed_losses.study.plan import Refusal
from bucketed_losses.study.slurm import LOST, SlurmExecutor, is_queued
from bucketed_losses.study.store import read_table

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

JOBS = ['--executor', 'slurm', '--slurm', f'partition={PARTITION}', 'time=20', 'cpus_per_task=1']


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp('slurm')) as cluster:
        yield cluster


@pytest.fixture
def environment(cluster, shapes_root, monkeypatch):
    more = {**cluster.environment, 'SHAPES_ROOT': str(shapes_root), 'OMP_NUM_THREADS': '1'}
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    return {**os.environ, **more}


def start(command, environment):
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process, timeout=1200):
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output


def write_longer_config(folder):
    """Ten epochs instead of two: long enough to be stopped in the middle."""
    write_small_config(folder)
    path = folder / 'longer.py'
    path.write_text("_base_ = './stock.py'\ntrain_cfg = dict(max_epochs=10, val_interval=10)\n")
    return path


def test_a_study_stopped_and_killed_goes_on_as_jobs(cluster, environment, tmp_path):
    folder = tmp_path / 'study'
    more = ['--losses', 'stock', 'brs', '--jobs', '1', *JOBS]
    command = study_command(folder, write_longer_config(tmp_path), *more)
    run = folder / 'runs/ATSS/stock_0'

    process = start(command, environment)
    wait_for(lambda: (run / 'last_checkpoint').is_file(), process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 130 and 'the same command continues' in output
    assert cluster.run('squeue', '-h').stdout == '' and not (run / 'train.job.json').exists()
    assert not (run / 'result.json').is_file()

    process = start(command, environment)
    wait_for(lambda: (folder / 'runs/ATSS/brs_0/train.job.json').is_file(), process)
    process.kill()
    process.communicate()
    number = json.loads((folder / 'runs/ATSS/brs_0/train.job.json').read_text())['job']

    code, output = finish(start(command, environment))
    assert code == 0, output
    resumed = re.search(r'resumed epoch: (\d+)', (run / 'train.log').read_text())
    assert resumed and 1 <= int(resumed.group(1)) < 10
    assert list(read_table(folder / 'study.csv').outcome) == ['finished', 'finished']
    # The job of the killed study did the training of BRS: no other one was submitted for it.
    assert (folder / f'slurm/{number}_0_result.pkl').is_file()
    assert (folder / 'runs/ATSS/brs_0/train.log').read_text().count('GPU number') == 1
    assert (folder / 'gradients/ATSS_brs.json').is_file() and (folder / 'times/ATSS.json').is_file()


def test_the_warning_before_a_time_limit_saves_and_puts_the_job_back(cluster, environment, tmp_path):
    folder = tmp_path / 'study'
    longer = write_longer_config(tmp_path)
    log = folder / 'runs/ATSS/brs_0/train.log'
    process = start(study_command(folder, longer, '--losses', 'brs', '--gpus', '2', *JOBS), environment)
    wait_for(lambda: log.is_file() and 'Epoch(train)' in log.read_text(), process)
    number = json.loads(log.with_suffix('.job.json').read_text())['job']
    cluster.run('scancel', '--signal=USR2', number)  # what Slurm does 90 seconds before the limit
    code, output = finish(process)  # Slurm keeps a requeued job for two minutes
    assert code == 0, output
    text = log.read_text()
    assert 'Stopped by a signal after iteration' in text and 'resumed epoch: ' in text
    assert text.count('GPU number: 2') == 2


def test_jobs_that_are_refused_or_lost(cluster, environment, tmp_path, monkeypatch):
    monkeypatch.setattr(SlurmExecutor, 'SECONDS_BETWEEN_LOOKS', 1.0)
    wrong = SlurmExecutor(tmp_path / 'jobs', {'partition': 'nowhere'})
    sleep = Command([sys.executable, '-c', 'import time; time.sleep(300)'], tmp_path / 'train.log')
    with pytest.raises(Refusal, match=r'the job is not accepted: .*nvalid partition'):
        wrong.call(sleep)
    executor = SlurmExecutor(tmp_path / 'jobs', {'partition': PARTITION})
    job = executor._submit(sleep)
    assert is_queued(job.job_id)
    cluster.run('scancel', '--signal=KILL', '--full', job.job_id)
    deadline = time.monotonic() + 120
    while is_queued(job.job_id):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # The next call with this command finds that the job is gone, and submits another one, which is cancelled too.
    ended = []
    thread = Thread(target=lambda: ended.append(executor.call(sleep)))
    thread.start()
    while json.loads(sleep.job_file.read_text())['job'] == job.job_id:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    cluster.run('scancel', '--signal=KILL', '--full', json.loads(sleep.job_file.read_text())['job'])
    thread.join(120)
    assert [end.code for end in ended] == [1] and sleep.log.read_text().endswith(f'{LOST}\n')
    assert not sleep.job_file.exists()
