"""Runs one command in its own process, with its output in a log. It imports little: each Slurm job starts it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code, or the negative number of the signal that ended it."""
    peak_mb: float = 0.0
    """The most memory that it held: its largest process, in megabytes."""
    log_begin: int = 0
    """Size of the log when it started: what it printed comes after."""


@dataclass
class Command:
    """A command whose output is appended to a log. Submitit calls it in a Slurm job."""

    arguments: Sequence[str]
    log: Path
    process: subprocess.Popen | None = field(default=None, repr=False)

    @property
    def job_file(self) -> Path:
        """The file that contains the number of the Slurm job that runs the command."""
        return self.log.with_suffix('.job.json')

    def start(
        self,
        environment: Mapping[str, str] | None = None,
        lock: TextIO | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        """Start it in a session of its own, so that Ctrl-C in the terminal does not reach it.

        Args:
            environment: Environment variables; those of this process by default.
            lock: A file that stays locked until it and all processes that it has started have ended.
            wrapper: A command that is put before it.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open('a') as file:
            # Of open files, the processes of torchrun inherit only standard input and output.
            self.process = subprocess.Popen(
                [*wrapper, *self.arguments], stdin=lock, stdout=file, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it has not ended."""
        # Popen.send_signal would take the exit status away from a thread that waits for it.
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill the process and, on Linux, those that it has started: the processes of torchrun would outlive it."""
        if self.process is None or self.process.returncode is not None:
            return
        for number in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def log_size(self) -> int:
        """The size of the log; 0 if there is none."""
        return self.log.stat().st_size if self.log.is_file() else 0

    def wait(self, log_begin: int = 0) -> Ended:
        """Wait for the end of the process that was started."""
        assert self.process is not None
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(self.process.returncode, _megabytes(usage), log_begin)

    def __call__(self) -> Ended:
        """Run it to its end; in a Slurm job."""
        begin = self.log_size()
        # Slurm sends the warning before a time limit to all processes of a job, and it would end those of the training.
        self.start(wrapper=['sh', '-c', 'trap "" USR2; exec "$@"', 'sh'])
        return self.wait(begin)

    def checkpoint(self) -> Any:
        """Stop the training, which saves a checkpoint; submitit then puts the job back into the queue.

        Submitit calls this on the warning before the time limit of a Slurm job.
        """
        from submitit.helpers import DelayedSubmission

        self.send(signal.SIGTERM)
        if self.process is not None:
            self.process.wait()
        return DelayedSubmission(Command(self.arguments, self.log))


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that these have started, by Linux's /proc; else none."""
    children: dict[int, list[int]] = {}
    for file in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):  # it has just ended
            # The number of the parent comes after the name of the program, which is in brackets.
            parent = int(file.read_text(errors='replace').rpartition(')')[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found = [process]
    for number in found:
        found += children.get(number, [])
    return found[1:]


def _megabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (1024**2 if sys.platform == 'darwin' else 1024)
