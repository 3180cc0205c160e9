"""Train a detector: MMDetection's ``tools/train.py``, for this package's configs and for any other.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--auto-scale-lr]
                      [--cfg-options KEY=VALUE ...] [--launcher none|pytorch|slurm|mpi]
"""

from __future__ import annotations

import bucketed_losses.cli._needs_mmdet  # noqa: F401  # isort: skip

import argparse
import pickle
import signal
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.distributed.elastic.multiprocessing.errors import record

from bucketed_losses.cli._runner import add_common_arguments, load_config, refuse_unusable_data, runner_from
from bucketed_losses.errors import UserError, one_line_errors
from bucketed_losses.mmdet.engine import (
    LastValidationHook,
    check_checkpoint,
    newest_complete_checkpoint,
    why_incomplete,
)
from bucketed_losses.mmdet.engine.batch_size import base_batch_size, warn_of_learning_rate
from bucketed_losses.mmdet.engine.config_checks import check_keys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='a config file, or a name such as mmdet::atss/atss_r50_fpn_1x_coco.py')
    parser.add_argument('--amp', action='store_true', help='enable automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the batch size, relative to auto_scale_lr.base_batch_size of the config',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or without a value from the newest complete one in the work directory',
    )
    add_common_arguments(parser)
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args(argv)


def build_runner(args: argparse.Namespace) -> Runner:
    """The runner of the command line, ready for ``train()``."""
    cfg = load_config(args)
    if args.amp:
        _use_amp(cfg)
    if args.auto_scale_lr:
        if base_batch_size(cfg) is None:
            raise UserError(
                f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size; set it to the batch size that '
                'its learning rate is for'
            )
        cfg.auto_scale_lr.enable = True
    resumes = args.resume is not None and _resume(cfg, args.resume)
    if cfg.get('load_from') and not resumes:
        check_checkpoint(cfg.load_from)
    runner = runner_from(cfg, ('train_dataloader', 'val_dataloader'))
    if resumes:
        runner.register_hook(LastValidationHook())
    warn_of_learning_rate(runner.cfg, runner.world_size)
    return runner


def _resume(cfg: Config, checkpoint: str) -> bool:
    """Let the config resume from a checkpoint, which is checked; False if there is none yet."""
    if checkpoint != 'auto':
        if not Path(checkpoint).is_file():
            check_checkpoint(checkpoint)
        elif why := why_incomplete(checkpoint):
            raise UserError(
                f'--resume: {checkpoint} is not a complete checkpoint: {why}; --resume without a value takes the '
                'newest complete one of the work directory'
            )
    elif newest := _newest(cfg.work_dir):
        checkpoint = newest
    else:
        print(f'--resume: no checkpoint in {cfg.work_dir} yet; starting from the beginning')
        return False
    cfg.resume = True
    cfg.load_from = checkpoint
    return True


def _newest(work_dir: str) -> str | None:
    try:
        return newest_complete_checkpoint(work_dir)
    except pickle.UnpicklingError as error:
        raise UserError(f'--resume: a checkpoint in {work_dir} cannot be loaded safely: {error}') from error


def _use_amp(cfg: Config) -> None:
    check_keys(cfg, ['optim_wrapper'])
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    else:
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'  # MMEngine's own refuses to run on a CPU
        for name in ('loss_scale', 'dtype', 'use_fsdp'):  # settings of MMEngine's own
            cfg.optim_wrapper.pop(name, None)


def train(runner: Runner) -> None:
    """Train; Ctrl-C is reported with the place where the training has stopped.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed. The message says where, and from which checkpoint ``--resume`` continues.
    """
    try:
        runner.train()
    except KeyboardInterrupt as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed twice, it would end the report
        raise KeyboardInterrupt(_where_stopped(runner)) from error


def _where_stopped(runner: Runner) -> str:
    where = f'iteration {runner.iter} of {runner.max_iters}'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        where = f'epoch {runner.epoch + 1} of {runner.max_epochs}, {where}'
    pointer = Path(runner.work_dir, 'last_checkpoint')
    if not pointer.is_file():
        return f'Stopped at {where}; no checkpoint is written yet, so --resume starts from the beginning'
    return f'Stopped at {where}; continue with --resume (from {pointer.read_text().strip()})'


@record  # torchrun reports the traceback of the process that failed first
@one_line_errors
def main(argv: list[str] | None = None) -> None:
    train(refuse_unusable_data(build_runner(parse_args(argv)), ['train', 'val']))


if __name__ == '__main__':
    main()
