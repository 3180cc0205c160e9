"""What the command lines of ``train.py`` and ``test.py`` share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _needs_mmdet  # noqa: F401
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

# Also for configs that do not name the package: registers its modules and lets MMEngine's checkpoints load safely.
from bucketed_losses.mmdet import engine
from bucketed_losses.mmdet.engine.config_checks import check_files, check_names, check_not_empty


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--work-dir', help='directory for logs and checkpoints; work_dirs/CONFIG_NAME by default')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, as KEY=VALUE with dots in KEY; lists as KEY="[a,b]" or KEY=a,b. '
        'data_root=FOLDER moves the data of every loader and evaluator',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes it in one of these spellings.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """The config of ``args.config`` with the common arguments applied."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    apply_options(cfg, args.cfg_options or {})
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def apply_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override settings as ``--cfg-options`` does."""
    rest = dict(options)
    if 'data_root' in rest:
        engine.replace_data_root(cfg, str(rest.pop('data_root')))
    cfg.merge_from_dict(rest)


def runner_from(cfg: Config, loaders: Sequence[str]) -> Runner:
    """The runner of a config; in a distributed run this joins the other processes.

    Args:
        cfg: The config.
        loaders: Names of the data loaders that will be used; their files are looked for at once.

    Raises:
        SystemExit: a name in the config is not registered, or an annotation file is missing.
    """
    try:
        check_names(cfg)
        check_files(cfg, loaders)
    except (KeyError, FileNotFoundError, ValueError) as error:
        raise SystemExit(f'{cfg.filename or "config"}: {error.args[0]}') from error
    engine.launch_on_cpu(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def refuse_empty_data(runner: Runner, loops: Sequence[str]) -> Runner:
    """The runner, with its loops built.

    Raises:
        SystemExit: a data set has no images.
    """
    try:
        check_not_empty(runner, loops)
    except ValueError as error:
        raise SystemExit(f'{runner.cfg.filename}: {error}') from error
    return runner
