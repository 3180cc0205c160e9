"""Train a detector: MMDetection's ``tools/train.py``, for this package's configs and for any other.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--auto-scale-lr]
                      [--cfg-options KEY=VALUE ...] [--launcher none|pytorch|slurm|mpi]
"""

from __future__ import annotations

import argparse

import torch
from _runner import add_common_arguments, load_config, runner_from
from mmengine.config import Config
from mmengine.runner import Runner


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='train config file path')
    parser.add_argument('--amp', action='store_true', help='enable automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size, by auto_scale_lr'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or without a value from the latest one in the work directory',
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def build_runner(args: argparse.Namespace) -> Runner:
    """The runner of the command line, ready for ``train()``."""
    cfg = load_config(args)
    if args.amp:
        _use_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SystemExit(
                f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size, '
                'the batch size that its learning rate was chosen for'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    return runner_from(cfg)


def _use_amp(cfg: Config) -> None:
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    else:
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'  # MMEngine's own refuses to run on a CPU


if __name__ == '__main__':
    build_runner(parse_args()).train()
