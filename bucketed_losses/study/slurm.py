"""Run the commands of a study as jobs on a Slurm cluster, by submitit."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .commands import Command, Ended
from .plan import Refusal
from .store import write_json

LOST = 'the Slurm job ended without a result: it was cancelled, had too little memory, or its node failed'


class SlurmExecutor:
    """Runs each command as a Slurm job, by submitit.

    The number of a job is kept in a file next to the log of the command. If this process is killed, its jobs continue.
    A later call with the same command waits for its job instead of submitting it again.

    Args:
        folder: Where submitit keeps its files; all nodes must see it.
        parameters: Parameters of the jobs with submitit's names: ``partition``, ``time`` (minutes), ``account``,
            ``cpus_per_task``, ``mem_gb``, ``gpus_per_node``, ... A training that needs more time than a job has saves
            a checkpoint and is put back into the queue.
        jobs: Jobs at once; by default, all of them are submitted.
        gpus: Processes of each training: GPUs of each job, unless ``parameters`` has ``gpus_per_node``.
        cluster: The name of submitit's executor.

    Raises:
        Refusal: there is no Slurm, or no such parameter.
    """

    SECONDS_BETWEEN_LOOKS = 60.0
    """Between two looks at the queue for jobs that ended without a result; results are looked for every second."""

    def __init__(
        self,
        folder: Path,
        parameters: Mapping[str, Any],
        jobs: int | None = None,
        gpus: int = 1,
        cluster: str = 'slurm',
    ) -> None:
        import submitit

        if jobs is not None and jobs < 1:
            raise Refusal(f'--jobs must be 1 or more, got {jobs}')
        self.jobs = jobs
        self.cluster = cluster
        self.stopping = threading.Event()
        self.in_a_hurry = threading.Event()
        self.guard = threading.Lock()
        try:
            # A time limit is not a failure: the job goes back into the queue, as often as it must.
            more = {'slurm_max_num_timeout': 1000} if cluster == 'slurm' else {}
            self.executor = submitit.AutoExecutor(folder, cluster=cluster, **more)
            general = submitit.AutoExecutor._typed_parameters()
            given = {'time': 240, 'gpus_per_node': gpus, 'job_name': 'study', **parameters}
            self.executor.update_parameters(
                **{name if name in general else f'slurm_{name}': value for name, value in given.items()}
            )
        except RuntimeError as error:
            raise Refusal(f'--executor slurm: {error}') from error
        except (NameError, ValueError, AssertionError) as error:
            raise Refusal(f'--slurm: {str(error).splitlines()[0]}') from error

    def check(self, command: Command) -> None:
        """Every command can be run as a job."""

    def call(self, command: Command, alone: bool = False) -> Ended:
        """Run a command to its end in a job, or wait for the job that an earlier process submitted for it.

        Raises:
            Refusal: Slurm does not accept the job.
        """
        ended = None
        if command.job_file.is_file():
            number = json.loads(command.job_file.read_text())['job']
            ended = self._wait(command, self.executor._executor.job_class(self.executor.folder, number))
        if ended is None and not self.stopping.is_set():
            ended = self._wait(command, self._submit(command)) or _note(command, LOST)
        if not self.in_a_hurry.is_set():
            command.job_file.unlink(missing_ok=True)
        return ended or Ended(1)

    def _submit(self, command: Command) -> Any:
        import submitit

        with self.guard:
            try:
                job = self.executor.submit(command)
            except submitit.core.utils.FailedJobError as error:
                raise Refusal(f'--slurm: the job is not accepted: {str(error).strip().splitlines()[-1]}') from error
        try:
            write_json(command.job_file, {'job': job.job_id})
        except OSError as error:
            job.cancel(check=False)  # no later command would find it, and it would train in the same folder as another
            raise Refusal(f'{command.job_file} cannot be written: {error.strerror}') from error
        return job

    def _wait(self, command: Command, job: Any) -> Ended | None:
        """The result of a job, or None if it ended without one."""
        looked, cancelled = time.monotonic(), False
        while not job.done():
            if self.stopping.is_set() and not cancelled:
                job.cancel(check=False)
                cancelled = True
            time.sleep(1)
            if self.in_a_hurry.is_set():
                return None
            if time.monotonic() - looked > (1.0 if cancelled else self.SECONDS_BETWEEN_LOOKS):
                looked = time.monotonic()
                if self.cluster == 'slurm' and not is_queued(job.job_id):
                    break
        if not job.paths.result_pickle.exists():
            return None
        error = job.exception()
        return _note(command, f'the Slurm job failed: {str(error).strip()}') if error else job.result()

    def stop(self) -> None:
        """Cancel the jobs: Slurm sends SIGTERM first; runs that train then save a checkpoint.

        The second time, do not wait for their end.
        """
        if self.stopping.is_set():
            self.in_a_hurry.set()
        self.stopping.set()


def is_queued(job: str) -> bool:
    """Whether Slurm knows a job that has not ended; also True if Slurm does not answer."""
    command = ['squeue', '--noheader', '--jobs', job, '--format', '%T']
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return 'Invalid job id' not in answer.stderr
    return bool(answer.stdout.strip())


def _note(command: Command, text: str) -> Ended:
    """A failure, with its reason at the end of the log."""
    begin = command.log_size()
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open('a') as log:
        log.write(f'{text}\n')
    return Ended(1, log_begin=begin)
