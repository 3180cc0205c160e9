"""Run the commands of a study on this machine.

The local executor of submitit is not used: it starts all commands at once, on the same GPUs, and without the lock of
the study. Without the lock, a run that outlives a killed study would not be noticed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

import torch

from .commands import Command, Ended
from .plan import Refusal


class Executor(Protocol):
    """Runs commands; ``call`` may be used by several threads at once."""

    jobs: int | None
    """The number of jobs at once; None: no limit."""
    stopping: threading.Event
    """Set when the study is to stop."""

    def check(self, command: Command) -> None:
        """Refuse a command that cannot be run here.

        Raises:
            Refusal: the reason.
        """

    def call(self, command: Command, alone: bool = False) -> Ended:
        """Run a command to its end. ``alone``: no other command runs meanwhile."""

    def stop(self) -> None:
        """Let the commands save and end; if called again, kill them. Commands that come later do not start."""


class LocalExecutor:
    """Runs commands on this machine.

    Args:
        lock: The lock of the study, which the commands inherit.
        jobs: Commands at once. Each gets its share of the GPUs or of the processor's cores.
        gpus: Processes of each training.
    """

    def __init__(self, lock: TextIO, jobs: int = 1, gpus: int = 1) -> None:
        if jobs < 1:
            raise Refusal(f'--jobs must be 1 or more, got {jobs}')
        self.jobs: int | None = jobs
        self.gpus = gpus
        self.lock = lock
        self.stopping = threading.Event()
        self.guard = threading.RLock()  # stop() may interrupt the thread that holds it
        self.running: list[Command] = []
        self.slots: queue.Queue[int] = queue.Queue()
        for slot in range(jobs):
            self.slots.put(slot)

    def check(self, command: Command) -> None:
        """Refuse a command that a Slurm job may be running.

        Raises:
            Refusal: an earlier process submitted it and did not see its end.
        """
        if command.job_file.is_file():
            number = json.loads(command.job_file.read_text())['job']
            raise Refusal(
                f'{command.job_file} says that Slurm job {number} already does this run; use --executor slurm, or '
                'remove the file if that job no longer exists'
            )

    def call(self, command: Command, alone: bool = False) -> Ended:
        """Run a command to its end. ``alone``: give it the whole machine.

        Raises:
            Refusal: a Slurm job may be running it.
        """
        self.check(command)
        with self._slot() as slot:
            begin = command.log_size()
            with self.guard:
                if self.stopping.is_set():
                    return Ended(1)
                share = dict(os.environ) if alone else environment(slot, self.jobs or 1, self.gpus)
                command.start(share, lock=self.lock)
                self.running.append(command)
                if self.stopping.is_set():  # since it was started, in this thread
                    command.send(signal.SIGTERM)
            ended = command.wait(begin)
            with self.guard:
                self.running.remove(command)
        return ended

    @contextmanager
    def _slot(self) -> Iterator[int]:
        slot = self.slots.get()
        try:
            yield slot
        finally:
            self.slots.put(slot)

    def stop(self) -> None:
        """Send SIGTERM to the commands; runs that train then save a checkpoint. A second call kills them."""
        again = self.stopping.is_set()
        self.stopping.set()
        with self.guard:  # a command that another thread is starting is among those that run then
            for command in list(self.running):
                if again:
                    command.kill()
                else:
                    command.send(signal.SIGTERM)


def environment(slot: int, jobs: int, gpus: int) -> dict[str, str]:
    """The environment variables of one of several runs: its share of the GPUs, or of the cores of the processor.

    If there are more runs than groups of ``gpus`` GPUs, several runs share a group.
    """
    env = dict(os.environ)
    if jobs == 1:
        return env
    if torch.cuda.is_available():
        devices = env.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(torch.cuda.device_count())))
        visible = devices.split(',')
        if groups := len(visible) // gpus:
            first = slot % groups * gpus
            env['CUDA_VISIBLE_DEVICES'] = ','.join(visible[first : first + gpus])
    env.setdefault('OMP_NUM_THREADS', str(max((os.cpu_count() or 1) // (jobs * gpus), 1)))
    return env
