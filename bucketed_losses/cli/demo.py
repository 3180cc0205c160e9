"""Train BRS-ATSS on drawn shapes on the CPU, print its AP, and draw the detections and the training curves.

bucketed-losses demo [--out work_dirs/demo] [--processes N] [--verbose] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

# torch 2.4 and OneDL's MMDetection print and warn when they are imported; none of it concerns the demo.
with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
    import bucketed_losses.mmdet  # noqa: F401

import mmcv
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.datasets.shapes import is_shapes, make_shapes
from bucketed_losses.mmdet.engine.observers import ObserverGuard
from bucketed_losses.new_files import check_folder
from bucketed_losses.shipped_files import shipped
from bucketed_losses.study.curves import plot_curves
from bucketed_losses.terminal import is_quiet

from ._arguments import add_cfg_options, add_out
from ._runner import add_common_arguments, load_config, runner_from

HELP = 'Train BRS-ATSS on drawn shapes on the CPU, and draw its detections and the curves of the training.'
BATCH_SIZE = 8
CONFIG = 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'


def predict(runner: Runner) -> list[DetDataSample]:
    """Detections and ground truth of every validation image, in original pixels, on the CPU.

    In a distributed run every process predicts its share; the first one returns all of them, the others nothing.
    """
    runner.model.eval()
    samples: list[DetDataSample] = []
    with torch.no_grad():
        for batch in runner.val_dataloader:
            samples += [sample.cpu() for sample in runner.model.val_step(batch)]
    return collect_results(samples, len(runner.val_dataloader.dataset), device='cpu') or []


def best_f1_thresholds(annotations: COCO, samples: list[DetDataSample]) -> list[float]:
    """Per class, the score at which detections have the best F1 at IoU 0.5.

    Scores of a ranking loss are an order, not confidences: a threshold must be chosen on data. It is infinite for a
    class without objects, and 0 if there are no detections at all.
    """
    category_ids = sorted(annotations.getCatIds())
    detections = [
        {
            'image_id': sample.img_id,
            'category_id': category_ids[label],
            'bbox': [x1, y1, x2 - x1, y2 - y1],
            'score': score,
        }
        for sample in samples
        for (x1, y1, x2, y2), label, score in zip(
            sample.pred_instances.bboxes.tolist(),
            sample.pred_instances.labels.tolist(),
            sample.pred_instances.scores.tolist(),
            strict=True,
        )
    ]
    if not detections:  # pycocotools cannot load none
        return [0.0] * len(category_ids)
    evaluation = COCOeval(annotations, annotations.loadRes(detections), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU, recall, class, area, detections per image): IoU 0.5, all areas, most detections.
    precision, scores = (evaluation.eval[key][0, :, :, 0, -1] for key in ('precision', 'scores'))
    recall = evaluation.params.recThrs[:, None]
    f1 = 2 * precision * recall / (precision + recall).clip(min=1e-9)
    thresholds = scores[f1.argmax(axis=0), range(len(category_ids))].tolist()
    # A class without objects has -1 everywhere: no detection of it is right, so none is drawn.
    return [math.inf if threshold < 0 else threshold for threshold in thresholds]


def draw_detections(samples: list[DetDataSample], thresholds: list[float], meta: dict, folder: Path) -> None:
    """Write every sample with ground truth (left) and detections above their class's threshold (right)."""
    folder.mkdir(parents=True, exist_ok=True)
    visualizer = DetLocalVisualizer(name='demo', line_width=2)
    visualizer.dataset_meta = meta
    factor = 2
    for index, sample in enumerate(samples):
        detected = sample.pred_instances
        sample.pred_instances = detected[detected.scores >= torch.tensor(thresholds)[detected.labels]]
        for instances in (sample.gt_instances, sample.pred_instances):
            instances.bboxes = instances.bboxes * factor
        image = mmcv.imrescale(mmcv.imread(sample.img_path, channel_order='rgb'), factor)
        out_file = str(folder / f'{index:02d}.png')
        visualizer.add_datasample('detections', image, sample, pred_score_thr=0.0, out_file=out_file)


class Progress(Hook):
    """A progress bar of the training with the time that is left, and a line for every validation."""

    priority = 'VERY_LOW'

    def __init__(self, console: Console) -> None:
        columns = (TextColumn('  {task.description}'), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self.bar = RichProgress(*columns, console=console, transient=True)
        self.console = console
        self.ap = math.nan
        self.guard = ObserverGuard('the progress bar')
        self.task = self.bar.add_task('training')

    def before_train(self, runner: Runner) -> None:
        with self.guard('start'):
            self.bar.update(self.task, total=runner.max_iters)
            self.bar.start()

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        with self.guard('advance'):
            description = f'epoch {runner.epoch + 1} of {runner.max_epochs}'
            self.bar.update(self.task, completed=runner.iter + 1, description=description)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.ap = (metrics or {}).get('coco/bbox_mAP', math.nan)
        with self.guard('print the AP'):
            line = f'  after epoch {runner.epoch} of {runner.max_epochs}: AP {self.ap:.3f}'
            self.console.print(line, highlight=False)

    def after_train(self, runner: Runner) -> None:
        with self.guard('stop'):
            self.bar.stop()


@contextmanager
def output_in(log: Path | None) -> Iterator[None]:
    """Send what libraries print, log and warn to a file. If no file is given, nothing changes.

    If an error occurs that does not say itself what to do, the end of the file is shown.
    """
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('a') as file, redirect_stdout(file), redirect_stderr(file):
        _move_logger(sys.__stdout__, file)
        try:
            yield
        except UserError:
            raise
        except Exception:
            file.flush()
            print(''.join(log.read_text().splitlines(keepends=True)[-20:]), file=sys.__stderr__)
            raise
        finally:
            _move_logger(file, sys.__stdout__)


def _move_logger(source: Any, target: Any) -> None:
    """Let MMEngine's logger, which keeps the stream of its first message, write to another one."""
    for handler in MMLogger.get_current_instance().handlers:
        if getattr(handler, 'stream', None) is source:
            handler.setStream(target)


def build_runner(arguments: list[str]) -> Runner:
    """The runner of a config, as ``tools/train.py`` builds it of its arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_common_arguments(parser)
    return runner_from(load_config(parser.parse_args(arguments)), ('train_dataloader', 'val_dataloader'))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_out(
        parser,
        'write logs, checkpoints and pictures to this folder (default: work_dirs/demo)',
        old='--work-dir',
        default=Path('work_dirs/demo'),
        metavar='DIR',
    )
    parser.add_argument(
        '--processes',
        type=int,
        default=1,
        metavar='N',
        help='train on N processes of the CPU, started by torchrun (default: 1)',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch'], default='none', help=argparse.SUPPRESS)
    add_cfg_options(parser, 'override settings of the config')
    parser.add_argument('--verbose', action='store_true', help="show MMEngine's output instead of a progress bar")


def run(args: argparse.Namespace) -> None:
    if args.processes < 1:
        raise UserError(f'--processes must be at least 1, got {args.processes}')
    work_dir = args.out
    check_folder('folder of the demo (--out)', work_dir)
    # Only the first process writes to the terminal and to the log.
    is_first = os.environ.get('RANK', '0') == '0' or args.launcher == 'none'
    log = None if args.verbose else work_dir / 'demo.log' if is_first else Path(os.devnull)
    console = Console(file=sys.stdout if is_first and not is_quiet() else open(os.devnull, 'w'))  # noqa: SIM115, PTH123

    data_root = os.environ.setdefault('SHAPES_ROOT', 'data/shapes')
    if not is_shapes(data_root):
        console.print(f'Drawing the data set in {data_root}', highlight=False)
        with output_in(log):
            try:
                make_shapes(data_root)
            except (UserError, OSError) as error:
                raise UserError(f'SHAPES_ROOT={data_root}: {error}') from error

    if args.processes > 1 and args.launcher == 'none':
        torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={args.processes}']
        again = ['-m', 'bucketed_losses', 'demo', '--launcher', 'pytorch', '--out', str(work_dir)]
        again += ['--verbose'] if args.verbose else []
        again += ['--quiet'] if is_quiet() else []
        again += ['--cfg-options', *args.cfg_options] if args.cfg_options else []
        # MMEngine would give each process a GPU of its own, and fail if there are fewer.
        raise SystemExit(subprocess.call([*torchrun, *again], env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''}))

    # As many images per step as one process has, or fewer if the processes cannot share them evenly.
    batch_size = max(BATCH_SIZE // int(os.environ.get('WORLD_SIZE', '1')), 1) if args.launcher != 'none' else BATCH_SIZE
    options = ['--cfg-options', f'train_dataloader.batch_size={batch_size}', *args.cfg_options]
    command = [str(shipped(CONFIG)), '--work-dir', str(work_dir), '--launcher', args.launcher, *options]
    where = f' (the output of MMEngine is in {log})' if log else ''
    console.print(f'Training ATSS with Bucketed RS Loss on drawn shapes{where}', highlight=False, soft_wrap=True)
    progress = Progress(console)
    with output_in(log):
        runner = build_runner(command)
        if log:
            runner.register_hook(progress)
        runner.train()
        samples = predict(runner)
        if not is_main_process():
            return
        thresholds = best_f1_thresholds(COCO(f'{data_root}/annotations/val.json'), samples)
        meta = runner.val_dataloader.dataset.metainfo
        draw_detections(samples[:8], thresholds, meta, work_dir / 'detections')
        # Curves of this run alone, whatever else the folder holds.
        plot_curves({'BRS-ATSS on drawn shapes': [runner.log_dir]}, work_dir / 'curves.png')
    drawn = ', '.join(
        f'{name} {score:.2f}' if math.isfinite(score) else f'{name} (no objects)'
        for name, score in zip(meta['classes'], thresholds, strict=True)
    )
    if log:
        print(f'AP {progress.ap:.3f} on {len(samples)} validation images')
    print(f'Detections (right) next to the ground truth (left): {work_dir}/detections/*.png')
    print(f'  Only detections above the score of best F1 of their class are drawn: {drawn}')
    print(f'Curves of the losses and of AP: {work_dir}/curves.png')
    print('Try next: put a ranking loss into a config of MMDetection and see what changes:')
    print(
        f'  {Path(sys.executable).parent}/python -m bucketed_losses swap mmdet::retinanet/retinanet_r50_fpn_1x_coco.py '
        '--loss brs --out work_dirs/retinanet_brs.py --print-diff'
    )
