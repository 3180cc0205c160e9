"""What ``tools/train.py``, ``tools/test.py`` and the verbs that build a runner share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from bucketed_losses.errors import UserError

# Importing the plug-in registers its modules, also for configs that do not name it.
from bucketed_losses.mmdet.engine.config_checks import check_keys, read_config
from bucketed_losses.mmdet.engine.runner import apply_options, parse_options, refuse_unusable_data, runner_from
from bucketed_losses.terminal import is_quiet

__all__ = ['add_common_arguments', 'apply_options', 'load_config', 'refuse_unusable_data', 'runner_from']

# What each launcher sets for its processes, and how to start one.
LAUNCHERS = {
    'pytorch': (
        ('RANK', 'WORLD_SIZE'),
        'torchrun: tools/dist_train.sh CONFIG GPUS, tools/dist_test.sh CONFIG CHECKPOINT GPUS, or '
        'torchrun --nproc_per_node=GPUS TOOL ARGUMENTS',
    ),
    'slurm': (
        ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
        'srun: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR, or tools/slurm_test.sh',
    ),
    'mpi': (
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MASTER_ADDR'),
        'mpirun, with MASTER_ADDR set to the first host',
    ),
}


class Options(argparse.Action):
    """Stores the settings of KEY=VALUE texts; an option that is given again adds to them."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *more: Any) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **parse_options(values)})


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--work-dir', help='write logs and checkpoints to this directory (default: work_dirs/CONFIG_NAME)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='override settings of the config, as KEY=VALUE with dots in KEY; lists as KEY="[a,b]" or KEY=a,b. '
        'data_root=FOLDER moves the data of every loader and evaluator',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='name the launcher that started the processes (default: none)',
    )
    # torch.distributed.launch passes it in one of these spellings.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """The config of ``args.config`` with the common arguments applied.

    Raises:
        UserError: the config cannot be read or has no model, an option does not fit it, or the launcher has not
            started this process.
    """
    check_launcher(args.launcher)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    cfg.launcher = args.launcher
    if is_quiet():
        cfg.log_level = 'WARNING'
    apply_options(cfg, args.cfg_options or {})
    check_keys(cfg, ['model'])
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def check_launcher(launcher: str) -> None:
    """Refuse a launcher that has not started this process.

    Raises:
        UserError: names what its environment lacks and how to start the processes.
    """
    variables, how = LAUNCHERS.get(launcher, ((), ''))
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher}: this process was not started by {launcher} ({", ".join(missing)} not set). Start '
            f'it with {how}, or leave out --launcher to run one process'
        )
