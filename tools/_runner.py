"""What the command lines of ``train.py`` and ``test.py`` share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _needs_mmdet  # noqa: F401
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

# Also for configs that do not name the package: registers its modules and lets MMEngine's checkpoints load safely.
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet import engine
from bucketed_losses.mmdet.engine.config_checks import (
    check_classes,
    check_files,
    check_keys,
    check_names,
    check_not_empty,
    read_config,
)
from bucketed_losses.new_files import check_folder

# What MMEngine's Runner needs beside a data loader.
BESIDE = {
    'train_dataloader': ('train_cfg', 'optim_wrapper'),
    'val_dataloader': ('val_cfg', 'val_evaluator'),
    'test_dataloader': ('test_cfg', 'test_evaluator'),
}

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


class Options(DictAction):
    """``DictAction`` that names an option which is not KEY=VALUE."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *more: Any) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'--cfg-options: write KEY=VALUE, got {value!r}')
        super().__call__(parser, namespace, values, *more)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--work-dir', help='directory for logs and checkpoints; work_dirs/CONFIG_NAME by default')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='override settings of the config, as KEY=VALUE with dots in KEY; lists as KEY="[a,b]" or KEY=a,b. '
        'data_root=FOLDER moves the data of every loader and evaluator',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error in the input')
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
            f'--launcher {launcher}: this process was not started by it ({", ".join(missing)} not set). Start it with '
            f'{how}; without --launcher, one process runs'
        )


def apply_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override settings as ``--cfg-options`` does.

    Raises:
        UserError: an option does not fit the config.
    """
    rest = dict(options)
    try:
        if 'data_root' in rest:
            engine.replace_data_root(cfg, str(rest.pop('data_root')))
        cfg.merge_from_dict(rest)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(f'--cfg-options: {error.args[0] if error.args else error}') from error


def _named(cfg: Config, check: Callable[..., None], *arguments: Any) -> None:
    """Run a check, and put the config's name before its errors."""
    try:
        check(*arguments)
    except UserError as error:
        raise UserError(f'{cfg.filename or "config"}: {error}') from error


def runner_from(cfg: Config, loaders: Sequence[str]) -> Runner:
    """The runner of a config; in a distributed run this joins the other processes.

    Args:
        cfg: The config.
        loaders: Names of the data loaders that will be used; their files are looked for at once.

    Raises:
        UserError: a key is missing, a name in the config is not registered, an annotation file is missing, or the
            work directory cannot be written to.
    """
    # A training without validation is allowed.
    used = [name for name in loaders if name != 'val_dataloader' or cfg.get(name) is not None]
    check_keys(cfg, ['model', *(key for name in used for key in (name, *BESIDE[name]))])
    _named(cfg, check_names, cfg)
    _named(cfg, check_files, cfg, loaders)
    check_folder('work directory (--work-dir)', cfg.work_dir)
    engine.launch_on_cpu(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def refuse_unusable_data(runner: Runner, loops: Sequence[str]) -> Runner:
    """The runner, with its loops built and their data sets checked.

    Args:
        runner: The runner.
        loops: 'train', 'val' or 'test', those that will run.

    Raises:
        UserError: a data set has no images, nothing to train on, or lacks classes of the config.
    """
    _named(runner.cfg, check_not_empty, runner, loops)
    _named(runner.cfg, check_classes, runner, loops)
    return runner
