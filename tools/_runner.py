"""What the command lines of ``train.py`` and ``test.py`` share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

# Also for configs that do not name the package: registers its modules and lets MMEngine's checkpoints load safely.
import bucketed_losses


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
    options = dict(args.cfg_options or {})
    if 'data_root' in options:
        bucketed_losses.engine.replace_data_root(cfg, str(options.pop('data_root')))
    cfg.merge_from_dict(options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def runner_from(cfg: Config) -> Runner:
    """The runner of a config; in a distributed run this joins the other processes."""
    bucketed_losses.engine.launch_on_cpu(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
