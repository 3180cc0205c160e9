"""Where the commands of a study run: on this machine, or as jobs of submitit."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('pandas')

from bucketed_losses.study.commands import Command, Ended
from bucketed_losses.study.executors import LocalExecutor, environment
from bucketed_losses.study.lock import only_study
from bucketed_losses.study.plan import Refusal


def python(text, log):
    return Command([sys.executable, '-c', text], log)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(process):
    """Whether a process has not ended; a zombie has."""
    try:
        return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


# Python waits for SIGTERM and ends with 3.
OBEYS = (
    'import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); '
    'print("ready", flush=True); time.sleep(60)'
)
# As torchrun: it starts a process in another session, without its open files; neither obeys SIGTERM.
LAUNCHES = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
text = 'import time; print("ready", flush=True); time.sleep(120)'
process = subprocess.Popen([sys.executable, '-c', text], start_new_session=True)
print(process.pid, flush=True)
process.wait()
"""


def launched(log):
    """The number of the process that LAUNCHES has started."""
    wait_for(lambda: log.is_file() and 'ready' in log.read_text() and any(map(str.isdecimal, log.read_text().split())))
    (number,) = filter(str.isdecimal, log.read_text().split())
    return int(number)


def test_a_command_appends_to_its_log_and_tells_how_it_ended(tmp_path):
    log = tmp_path / 'a/train.log'
    with only_study(tmp_path) as lock:
        executor = LocalExecutor(lock)
        first = executor.call(python('print("one")', log))
        second = executor.call(python('raise SystemExit(5)', log))
        killed = executor.call(python('import os; os.kill(os.getpid(), 9)', log))
    assert (first.code, first.log_begin) == (0, 0) and first.peak_mb > 1
    assert (second.code, second.log_begin, killed.code) == (5, 4, -signal.SIGKILL)
    assert log.read_text() == 'one\n'


def test_commands_at_once_share_the_machine(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 8)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert 'OMP_NUM_THREADS' not in environment(0, 1, 1)
    assert environment(1, 2, 1)['OMP_NUM_THREADS'] == '4'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert [environment(slot, 2, 2)['CUDA_VISIBLE_DEVICES'] for slot in (0, 1)] == ['0,1', '2,3']
    # More jobs than GPUs for them: they take turns.
    assert [environment(slot, 5, 1)['CUDA_VISIBLE_DEVICES'] for slot in range(5)] == ['0', '1', '2', '3', '0']
    assert [environment(slot, 3, 2)['CUDA_VISIBLE_DEVICES'] for slot in range(3)] == ['0,1', '2,3', '0,1']
    assert 'CUDA_VISIBLE_DEVICES' not in environment(1, 2, 8), 'too few GPUs for one run'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,7')
    assert environment(1, 2, 1)['CUDA_VISIBLE_DEVICES'] == '7'


def test_each_of_two_commands_has_its_own_share(tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 6)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    text = 'import os; print(os.environ.get("OMP_NUM_THREADS"))'
    with only_study(tmp_path) as lock:
        executor = LocalExecutor(lock, jobs=2)
        executor.call(python(text, tmp_path / 'shared.log'))
        executor.call(python(text, tmp_path / 'alone.log'), alone=True)
    assert (tmp_path / 'shared.log').read_text() == '3\n'
    assert (tmp_path / 'alone.log').read_text() == 'None\n'


def calling(executor, command):
    """A thread that runs a command, and the list in which it says how that ended."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(executor.call(command)), daemon=True)
    thread.start()
    return thread, ended


def test_stop_lets_a_command_save_and_starts_no_other(tmp_path):
    with only_study(tmp_path) as lock:
        executor = LocalExecutor(lock)
        thread, ended = calling(executor, python(OBEYS, tmp_path / 'log'))
        wait_for(lambda: (tmp_path / 'log').is_file() and 'ready' in (tmp_path / 'log').read_text())
        executor.stop()
        thread.join(60)
        assert [end.code for end in ended] == [3]
        assert executor.call(python('print()', tmp_path / 'other')) == Ended(1)
    assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize('in_main_thread', [False, True])
def test_a_command_that_is_being_started_is_stopped(in_main_thread, tmp_path, monkeypatch):
    """The signal handler runs in the main thread, which may be the one that starts the command."""
    started, start = threading.Event(), Command.start

    def slow_start(command, *args, **kwargs):
        start(command, *args, **kwargs)
        started.set()
        if in_main_thread:
            executor.stop()
        else:
            wait_for(executor.stopping.is_set)

    monkeypatch.setattr(Command, 'start', slow_start)
    sleeps = python('import time; time.sleep(90)', tmp_path / 'log')
    with only_study(tmp_path) as lock:
        executor = LocalExecutor(lock)
        if in_main_thread:
            ended = [executor.call(sleeps)]
        else:
            thread, ended = calling(executor, sleeps)
            started.wait(60)
            executor.stop()
            thread.join(60)
    assert [end.code for end in ended] == [-signal.SIGTERM]


@pytest.mark.skipif(not Path('/proc/self/stat').is_file(), reason='finds processes by /proc')
def test_a_second_stop_kills_the_processes_of_a_launcher(tmp_path):
    with only_study(tmp_path) as lock:
        executor = LocalExecutor(lock)
        thread, ended = calling(executor, python(LAUNCHES, tmp_path / 'log'))
        worker = launched(tmp_path / 'log')
        executor.stop()
        assert is_running(worker) and not ended
        executor.stop()
        thread.join(60)
        assert [end.code for end in ended] == [-signal.SIGKILL]
        wait_for(lambda: not is_running(worker))


def test_a_command_that_has_ended_is_not_killed(tmp_path, monkeypatch):
    """Another process may have its number."""
    command = python('pass', tmp_path / 'log')
    command.kill()
    command.start()
    command.wait()
    monkeypatch.setattr(os, 'kill', lambda *_: pytest.fail('it has killed another process'))
    command.kill()
    command.send(signal.SIGTERM)


@pytest.mark.parametrize('launcher_is_killed', [False, True])
def test_the_lock_is_inherited(launcher_is_killed, tmp_path):
    """A training that outlives its study, and a process that outlives its launcher, keep others out of the folder."""
    with only_study(tmp_path) as lock:
        command = python(LAUNCHES, tmp_path / 'log')
        command.start(lock=lock)
    worker = launched(tmp_path / 'log')
    if launcher_is_killed:
        command.send(signal.SIGKILL)
        command.wait()
    with pytest.raises(Refusal, match='a run that it started before'), only_study(tmp_path):
        pass
    os.kill(worker, signal.SIGKILL)
    if not launcher_is_killed:
        command.wait()

    def is_free():
        try:
            with only_study(tmp_path):
                return True
        except Refusal:
            return False

    wait_for(is_free)


def test_a_job_of_slurm_is_not_started_a_second_time_here(tmp_path):
    command = python('print()', tmp_path / 'train.log')
    command.job_file.write_text(json.dumps({'job': '17'}))
    with only_study(tmp_path) as lock:
        executor = LocalExecutor(lock)
        with pytest.raises(Refusal, match='Slurm job 17 already does this run; use --executor slurm'):
            executor.call(command)


# Jobs of submitit, on this machine


@pytest.fixture
def jobs(tmp_path):
    pytest.importorskip('submitit', reason='jobs: pip install "bucketed-losses[slurm]"')
    from bucketed_losses.study.slurm import SlurmExecutor

    return SlurmExecutor(tmp_path / 'jobs', {'gpus_per_node': 0}, cluster='local')


def test_a_job_tells_how_its_command_ended(jobs, tmp_path):
    command = python('print("one"); raise SystemExit(5)', tmp_path / 'train.log')
    ended = jobs.call(command)
    assert (ended.code, ended.log_begin) == (5, 0) and ended.peak_mb > 1
    assert command.log.read_text() == 'one\n' and not command.job_file.exists()
    assert jobs.call(command).log_begin == 4


def test_a_job_that_was_submitted_is_not_submitted_again(jobs, tmp_path):
    """As after a SIGKILL of the study: the file with the number of the job is there."""
    command = python('print("one")', tmp_path / 'train.log')
    job = jobs._submit(command)
    job.wait()
    assert command.job_file.is_file()
    assert jobs.call(command).code == 0
    assert command.log.read_text() == 'one\n' and not command.job_file.exists()


def test_a_job_without_a_result_is_submitted_again(jobs, tmp_path):
    command = python('print("one")', tmp_path / 'train.log')
    command.job_file.write_text(json.dumps({'job': '17'}))
    assert jobs.call(command).code == 0
    assert command.log.read_text() == 'one\n'


def test_a_job_whose_number_cannot_be_kept_is_cancelled(jobs, tmp_path, monkeypatch):
    """On a full disk, an empty file would end all later commands."""
    write_text, job_class, cancelled = Path.write_text, jobs.executor._executor.job_class, []

    def full_disk(path, *args):
        if 'job.json' not in path.name:
            return write_text(path, *args)
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cancel = job_class.cancel
    monkeypatch.setattr(Path, 'write_text', full_disk)
    monkeypatch.setattr(job_class, 'cancel', lambda job, check=True: (cancelled.append(job.job_id), cancel(job, check)))
    command = python(OBEYS, tmp_path / 'train.log')
    with pytest.raises(Refusal, match=r'train\.job\.json cannot be written: No space left on device'):
        jobs.call(command)
    assert len(cancelled) == 1 and not command.job_file.exists()


def test_a_job_that_cannot_start_its_command_says_so(jobs, tmp_path):
    ended = jobs.call(Command(['no_such_program'], tmp_path / 'train.log'))
    assert ended.code == 127 and 'no_such_program' in (tmp_path / 'train.log').read_text()


@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='finds processes by /proc')
def test_the_warning_before_a_time_limit_lets_the_command_save_and_puts_the_job_back(jobs, tmp_path):
    log, marker = tmp_path / 'train.log', tmp_path / 'marker'
    text = f'import pathlib; marker = pathlib.Path({str(marker)!r})\nif marker.exists(): raise SystemExit(0)\n'
    text += 'marker.touch()\n' + OBEYS.replace('; ', '\n').replace('sys.exit(3)', '(print("saved"), sys.exit(0))')
    ended = []
    thread = threading.Thread(target=lambda: ended.append(jobs.call(python(text, log))))
    thread.start()
    wait_for(lambda: log.is_file() and 'ready\n' in log.read_text())
    job = json.loads(log.with_suffix('.job.json').read_text())['job']
    # The number of a job on this machine is that of submitit's controller, whose child runs the command.
    (child,) = Path(f'/proc/{job}/task/{job}/children').read_text().split()
    os.kill(int(child), signal.SIGUSR2)
    thread.join(60)
    assert [end.code for end in ended] == [0]
    assert log.read_text() == 'ready\nsaved\n'


def test_unknown_parameters_of_jobs_are_named(tmp_path):
    pytest.importorskip('submitit', reason='jobs: pip install "bucketed-losses[slurm]"')
    from bucketed_losses.study.slurm import SlurmExecutor

    with pytest.raises(Refusal, match=r"--slurm: Unknown argument 'colour'"):
        SlurmExecutor(tmp_path, {'colour': 'red'}, cluster='local')
    with pytest.raises(Refusal, match=r'--jobs must be 1 or more, got 0'):
        SlurmExecutor(tmp_path, {}, jobs=0, cluster='local')
