"""The job that trains a row: a command for this machine, or a batch script for Slurm."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bucketed_losses.errors import UserError
from bucketed_losses.new_files import check_folder, new_files
from bucketed_losses.shipped_files import shipped

from .rows import Row

LAUNCHERS = ('none', 'pytorch', 'slurm')


@dataclass(frozen=True)
class Job:
    """The training of one row.

    Attributes:
        row: The row.
        launcher: ``'none'`` for one process, ``'pytorch'`` for torchrun on this machine, or ``'slurm'``.
        gpus: The number of processes, one for each GPU.
        work_dir: The folder of its logs and checkpoints.
        options: Settings of the config to change, written KEY=VALUE.
        gpus_per_node: GPUs of a Slurm node.
        partition: The Slurm partition.
        sbatch: More options of ``sbatch``, written KEY=VALUE, such as ``time=24:00:00``.

    Raises:
        UserError: A number of GPUs is below 1 or does not fit the launcher, or Slurm has no partition.
    """

    row: Row
    launcher: str
    gpus: int
    work_dir: Path
    options: Sequence[str] = ()
    gpus_per_node: int = 8
    partition: str | None = None
    sbatch: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UserError(f'--gpus must be 1 or more, got {self.gpus}')
        if self.gpus_per_node < 1:
            raise UserError(f'--gpus-per-node must be 1 or more, got {self.gpus_per_node}')
        if self.launcher == 'none' and self.gpus > 1:
            raise UserError(f'--launcher none starts one process, got --gpus {self.gpus}; use pytorch or slurm')
        if self.launcher == 'slurm':
            if self.partition is None:
                raise UserError('--launcher slurm needs --partition; "sinfo" lists the partitions of a cluster')
            if self.gpus > self.gpus_per_node and self.gpus % self.gpus_per_node:
                raise UserError(
                    f'--gpus {self.gpus} must be a multiple of the {self.gpus_per_node} of --gpus-per-node, or less'
                )
        for text in self.sbatch:
            if '=' not in text:
                raise UserError(f'--sbatch takes KEY=VALUE, such as time=24:00:00; got {text!r}')

    @property
    def scale(self) -> float:
        """What the learning rate is multiplied by: images of an iteration here, over those that it is for."""
        return self.gpus * self.row.images / self.row.base_batch_size

    @property
    def learning_rate(self) -> float:
        """The learning rate that the job trains with."""
        return self.row.learning_rate * self.scale

    @property
    def arguments(self) -> list[str]:
        """The arguments of ``tools/train.py`` after the config and the work directory."""
        arguments = ['--resume']
        if self.scale != 1:
            arguments.append('--auto-scale-lr')
        if self.options:
            arguments += ['--cfg-options', *self.options]
        return arguments

    @property
    def command(self) -> list[str]:
        """The command: a training on this machine, or the submission of :attr:`script`."""
        config, folder = str(self.row.file), str(self.work_dir)
        if self.launcher == 'none':
            return [sys.executable, str(shipped('tools/train.py')), config, '--work-dir', folder, *self.arguments]
        if self.launcher == 'pytorch':
            script = str(shipped('tools/dist_train.sh'))
            return ['bash', script, config, str(self.gpus), '--work-dir', folder, *self.arguments]
        return ['sbatch', '--parsable', str(self.script_file)]

    @property
    def script_file(self) -> Path:
        """Where the batch script is written."""
        return self.work_dir / 'job.sbatch'

    @property
    def script(self) -> str:
        """The batch script for Slurm."""
        on_node = min(self.gpus, self.gpus_per_node)
        cpus = self.row.workers + 1
        settings = {
            'job-name': self.row.name,
            'partition': self.partition,
            'nodes': self.gpus // on_node,
            'ntasks': self.gpus,
            'gres': f'gpu:{on_node}',
            'cpus-per-task': cpus,
            'output': f'{self.work_dir}/slurm-%j.out',
            'open-mode': 'append',
            **dict(text.split('=', 1) for text in self.sbatch),
        }
        environment = {
            'PYTHON': sys.executable,
            'GPUS': self.gpus,
            'GPUS_PER_NODE': on_node,
            'CPUS_PER_TASK': settings['cpus-per-task'],
        }
        command = [
            *(f'{name}={shlex.quote(str(value))}' for name, value in environment.items()),
            'bash',
            shlex.quote(str(shipped('tools/slurm_train.sh'))),
            shlex.join([str(self.partition), self.row.name, str(self.row.file), str(self.work_dir), *self.arguments]),
        ]
        directives = [f'#SBATCH --{name}={_quoted(str(value))}' for name, value in settings.items()]
        return '\n'.join(['#!/bin/bash', *directives, ' '.join(command)]) + '\n'

    @property
    def shown(self) -> str:
        """The job as text: the batch script, or the command as a shell takes it."""
        if self.launcher == 'slurm':
            return self.script.rstrip('\n')
        environment = f'PYTHON={shlex.quote(sys.executable)} ' if self.launcher == 'pytorch' else ''
        return environment + shlex.join(self.command)

    def run(self) -> None:
        """Train, or submit the batch script.

        Raises:
            UserError: ``sbatch`` is not installed, or the batch script cannot be written.
            SystemExit: The training or the submission failed; with its status.
        """
        if self.launcher == 'slurm':
            check_folder('folder of the row (--out)', self.work_dir)
            with new_files(self.script_file) as (temporary,):
                temporary.write_text(self.script)
        try:
            result = subprocess.run(self.command, env={**os.environ, 'PYTHON': sys.executable})
        except FileNotFoundError as error:
            raise UserError(f'--launcher {self.launcher}: {self.command[0]} is not on this machine') from error
        if result.returncode:
            raise SystemExit(result.returncode)


def _quoted(value: str) -> str:
    """A value as sbatch reads it in a batch script, where a space ends it and # begins a comment."""
    return shlex.quote(value) if re.search(r'[\s#]', value) and value[0] not in '\'"' else value
