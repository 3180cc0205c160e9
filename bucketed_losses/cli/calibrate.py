"""Map the scores of a trained detector to precisions, on its validation set.

bucketed-losses calibrate CONFIG CHECKPOINT [--out DIR] [--force] [--method isotonic|platt] [--iou-thr 0.5]
                          [--min-matches 50] [--cfg-options KEY=VALUE ...] [--launcher none|pytorch|slurm|mpi]

The detector may be any detector of MMDetection on COCO-style annotations, with any loss. The command writes three files
to DIR (by default the folder of the checkpoint), with the name of CONFIG and _calibrated: a config, a checkpoint with
the weights and the maps, and a reliability diagram. AP stays the same. score_thr in the new config is a precision.
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine import load_safely
from bucketed_losses.mmdet.engine.config import imported_modules, type_name
from bucketed_losses.mmdet.engine.config_checks import check_keys, find_config, read_editable_config
from bucketed_losses.mmdet.evaluation import (
    annotations_of,
    average_precision,
    calibrated,
    calibration_errors,
    coco_file,
    cross_validated,
    fit_calibration,
    label_names,
    match_detections,
)
from bucketed_losses.mmdet.evaluation.calibration import METHODS
from bucketed_losses.mmdet.evaluation.reliability_diagram import draw_reliability
from bucketed_losses.mmdet.models.detectors import ScoreCalibration, take_score_threshold, threshold_part
from bucketed_losses.new_files import check_folder, new_files

from ._arguments import add_force, add_out, refuse_to_overwrite
from ._progress import hide_log_lines, test_progress
from ._runner import add_common_arguments, load_config, refuse_unusable_data, runner_from

HELP = 'Map the scores of a trained detector to precisions, on its validation set.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='the config of the detector')
    parser.add_argument('checkpoint', type=Path, help='its checkpoint')
    add_out(
        parser,
        'write the config, the checkpoint and the diagram to this folder (default: the folder of the checkpoint)',
        old='--out-dir',
        metavar='DIR',
    )
    add_force(parser)
    parser.add_argument(
        '--method',
        choices=METHODS,
        default='isotonic',
        help='choose the regression from score to precision (default: isotonic)',
    )
    parser.add_argument(
        '--iou-thr', type=float, default=0.5, help='set the lowest IoU of a right detection (default: 0.5)'
    )
    parser.add_argument(
        '--min-matches',
        type=int,
        default=50,
        help='set how many right and how many wrong detections a class needs for its own map (default: 50)',
    )
    add_common_arguments(parser)


def detect(cfg: Config) -> tuple[list[dict], Any]:
    """Detections of the validation set without any threshold, and the data set.

    Raises:
        UserError: the data set is unusable, or its annotations are not COCO's.
    """
    take_score_threshold(cfg.model.get('test_cfg'), 'roi_head' in cfg.model)
    cfg.test_dataloader, cfg.test_cfg = cfg.val_dataloader, dict(type='TestLoop')
    cfg.test_evaluator = dict(type='mmdet.CollectDetections')
    hide_log_lines(cfg)
    runner = refuse_unusable_data(runner_from(cfg, ['test_dataloader']), ['test'])
    dataset = runner.test_loop.dataloader.dataset
    try:
        coco_file(dataset)
    except UserError as error:
        raise UserError(f'the maps cannot be fitted on the validation set: {error}') from error
    with test_progress(runner, f'detecting objects in {len(dataset)} images'):
        runner.test()
    return runner.test_evaluator.metrics[0].detections, dataset


def write_config(config: str, cfg: Config, calibration: ScoreCalibration, out: Path) -> None:
    """Write a config that inherits the detector's and imports the modules that register what both name.

    Text cannot inherit a config of MMEngine's lazy kind, so all its settings are written.
    """
    num_classes, num_knots = calibration.knots.shape
    modules = [*dict.fromkeys([*imported_modules(cfg.get('custom_imports')), 'bucketed_losses.mmdet'])]
    part = threshold_part(cfg.model.get('test_cfg'), 'roi_head' in cfg.model)
    no_threshold = dict(score_thr=0.0)
    original, inherits = read_editable_config(find_config(config))
    settings = dict(
        custom_imports=dict(imports=modules),
        model=dict(
            type='mmdet.CalibratedDetector',  # the config may have another default scope, or none
            detector=original.model.type,
            calibration=dict(num_classes=num_classes, num_knots=num_knots),
            test_cfg={part: no_threshold} if part else no_threshold,
        ),
    )
    if inherits:
        base = config if '::' in config else os.path.relpath(Path(config).resolve(), out.resolve().parent)
        body = f'_base_ = {base!r}\n\n{Config(settings).pretty_text}'
    else:
        original.merge_from_dict(settings)
        body = original.pretty_text
    out.write_text(
        '"""Written by bucketed-losses calibrate: scores are precisions, and so is score_thr in test_cfg.\n\n'
        f'Set it as for any detector: 0.5 keeps what is more likely right than wrong.\n"""\n\n{body}'
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint, loaded safely.

    Raises:
        UserError: it cannot be, or has maps already.
    """
    checkpoint = load_safely(path)
    state = checkpoint.get('state_dict', checkpoint)
    if not state:
        raise UserError(f'{path} is not a checkpoint: it contains no state_dict')
    if any(key.startswith('calibration.') for key in state):
        raise UserError(f'{path} is already calibrated; give the checkpoint that was trained')
    return checkpoint if 'state_dict' in checkpoint else {'meta': {}, 'state_dict': checkpoint}


def run(args: argparse.Namespace) -> None:
    if not 0 < args.iou_thr <= 1:
        raise UserError(f'--iou-thr must lie in (0, 1], got {args.iou_thr}')
    if args.min_matches < 1:
        raise UserError(f'--min-matches must be at least 1, got {args.min_matches}')
    out_dir, name = args.out or args.checkpoint.parent, f'{Path(args.config).stem}_calibrated'
    refuse_to_overwrite(*(out_dir / f'{name}.{suffix}' for suffix in ('py', 'pth', 'png')), force=args.force)
    check_folder('folder for the results (--out)', out_dir)
    checkpoint = load_checkpoint(args.checkpoint)
    cfg = load_config(args)
    check_keys(cfg, ['val_dataloader'])
    if type_name(cfg.model.type) == 'CalibratedDetector':
        raise UserError(f'{args.config} is already calibrated; give the config that was trained')
    cfg.load_from, cfg.resume = str(args.checkpoint), False
    detections, dataset = detect(cfg)
    if not is_main_process():
        return
    annotations = annotations_of(dataset)
    classes = label_names(dataset, annotations)
    try:
        matches = match_detections(annotations, detections, classes, args.iou_thr)
        calibration, own = fit_calibration(matches, args.method, args.min_matches)
        unseen = cross_validated(matches, args.method, args.min_matches)
    except (ImportError, ValueError) as error:
        raise UserError(f'{error}') from error
    labels = torch.tensor([d['label'] for d in detections])
    scores = calibration(torch.tensor([d['score'] for d in detections], dtype=torch.float64), labels)
    mapped = [dict(d, score=score) for d, score in zip(detections, scores.tolist(), strict=True)]
    errors = [calibration_errors(m) for m in (matches, unseen, calibrated(matches, calibration))]

    state = {**checkpoint['state_dict'], **{f'calibration.{k}': v for k, v in calibration.state_dict().items()}}
    content = io.BytesIO()  # torch.save says less than a file about a full disk
    torch.save({'meta': checkpoint.get('meta', {}), 'state_dict': state}, content)
    panels = {'as trained': (matches, errors[0]), 'calibrated, on unseen images': (unseen, errors[1])}
    with new_files(*(out_dir / f'{name}.{suffix}' for suffix in ('py', 'pth', 'png'))) as (config, weights, diagram):
        write_config(args.config, cfg, calibration, config)
        weights.write_bytes(content.getvalue())
        draw_reliability(panels, args.iou_thr, diagram)

    print(
        f'{len(detections)} detections on {len(dataset)} images, right if IoU >= {args.iou_thr:g}; {args.method} maps'
    )
    for class_name, m, mine in zip(classes, matches, own, strict=True):
        few = min(m.correct.sum(), (~m.correct).sum()) < args.min_matches
        why = f'fewer than {args.min_matches} right or wrong' if few else 'its precision does not rise with its score'
        whose = 'its own map' if mine else f'the map of all classes: {why}'
        print(f'  {class_name}: {int(m.correct.sum())} right of {len(m.scores)}, {m.num_objects} objects; {whose}')
    print('              before   after, on unseen images (5 folds)   after, on the images of the fit')
    for row, values in (('D-ECE', [e.d_ece for e in errors]), ('LaECE', [e.la_ece for e in errors])):
        print('  {:6}  {:10.4f} {:10.4f} {:36.4f}'.format(row, *values))
    ap = [average_precision(annotations, found, classes) for found in (detections, mapped)]
    print(f'  AP      {ap[0]:10.5f} {ap[1]:10.5f}')
    print(f'written to {out_dir}: {name}.py, {name}.pth, {name}.png')
    if again := ' '.join(key for key in args.cfg_options or {} if key.partition('.')[0] == 'model'):
        print(f'{name}.py does not have these settings of --cfg-options, so give them again when you use it: {again}')
