"""Test a checkpoint: MMDetection's ``tools/test.py``, for this package's configs and for any other.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE.pkl] [--show] [--show-dir DIR]
                     [--wait-time S] [--tta] [--cfg-options KEY=VALUE ...] [--launcher none|pytorch|slurm|mpi]
"""

from __future__ import annotations

import bucketed_losses.cli._needs_mmdet  # noqa: F401  # isort: skip

import argparse
from pathlib import Path

from mmdet.evaluation import DumpDetResults
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from bucketed_losses.cli._runner import add_common_arguments, load_config, refuse_unusable_data, runner_from
from bucketed_losses.errors import UserError, one_line_errors
from bucketed_losses.mmdet.engine import check_checkpoint
from bucketed_losses.new_files import check_folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test (and evaluate) a model')
    parser.add_argument('config', help='a config file, or a name such as mmdet::atss/atss_r50_fpn_1x_coco.py')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='dump predictions to this pickle file (.pkl or .pickle)')
    parser.add_argument('--show', action='store_true', help='show predictions in windows')
    parser.add_argument('--show-dir', help='save painted predictions to WORK_DIR/TIMESTAMP/SHOW_DIR')
    parser.add_argument('--wait-time', type=float, default=2, help='show each window for this many seconds')
    parser.add_argument(
        '--tta', action='store_true', help='use test-time augmentation (tta_model and tta_pipeline of the config)'
    )
    add_common_arguments(parser)
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, got {args.out}')
    return args


def build_runner(args: argparse.Namespace) -> Runner:
    """The runner of the command line, ready for ``test()``."""
    cfg = load_config(args)
    check_checkpoint(args.checkpoint)
    if args.out is not None:
        check_folder('folder of --out', Path(args.out).parent)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show or args.show_dir:
        if not (cfg.get('default_hooks') or {}).get('visualization'):
            raise UserError(f'--show and --show-dir need a visualization hook in default_hooks of {args.config}')
        cfg.default_hooks.visualization.update(draw=True, show=args.show, wait_time=args.wait_time)
        if args.show_dir:
            cfg.default_hooks.visualization.test_out_dir = args.show_dir
    if args.tta:
        _use_tta(cfg, args.config)
    runner = runner_from(cfg, ['test_dataloader'])
    if args.out is not None:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    return runner


def _use_tta(cfg: Config, name: str) -> None:
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise UserError(f'--tta: {name} has no {" and no ".join(missing)}')
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


@record  # torchrun reports the traceback of the process that failed first
@one_line_errors
def main(argv: list[str] | None = None) -> None:
    setup_cache_size_limit_of_dynamo()
    refuse_unusable_data(build_runner(parse_args(argv)), ['test']).test()


if __name__ == '__main__':
    main()
