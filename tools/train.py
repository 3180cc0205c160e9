"""Train a detector: MMDetection's ``tools/train.py``, for this package's configs and for any other.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--auto-scale-lr]
                      [--cfg-options KEY=VALUE ...] [--launcher none|pytorch|slurm|mpi]
"""

from __future__ import annotations

import bucketed_losses.cli._needs_mmdet  # noqa: F401  # isort: skip

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from bucketed_losses.cli._runner import add_common_arguments, load_config, refuse_empty_data, runner_from
from bucketed_losses.mmdet.engine import newest_complete_checkpoint, why_incomplete


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
        help='resume from this checkpoint, or without a value from the newest complete one in the work directory',
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
        _resume(cfg, args.resume)
    return runner_from(cfg, ('train_dataloader', 'val_dataloader'))


def _resume(cfg: Config, checkpoint: str) -> None:
    if checkpoint != 'auto':
        why = why_incomplete(checkpoint) if Path(checkpoint).is_file() else None
        if why is not None:
            raise SystemExit(
                f'--resume: {checkpoint} is not a complete checkpoint: {why}; --resume without a value takes the '
                'newest complete one of the work directory'
            )
    elif newest := newest_complete_checkpoint(cfg.work_dir):
        checkpoint = newest
    else:
        print(f'--resume: no checkpoint in {cfg.work_dir} yet; starting from the beginning')
        return
    cfg.resume = True
    cfg.load_from = checkpoint


def _use_amp(cfg: Config) -> None:
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    else:
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'  # MMEngine's own refuses to run on a CPU


@record  # torchrun reports the traceback of the process that failed first
def main() -> None:
    refuse_empty_data(build_runner(parse_args()), ['train']).train()


if __name__ == '__main__':
    main()
