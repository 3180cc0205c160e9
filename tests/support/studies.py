"""Small studies, and how tests start them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from command_line import parse

from bucketed_losses.study.plan import EQUAL_TIME, Detector
from bucketed_losses.study.report import write_report
from bucketed_losses.study.store import Study, write_json

ROOT = Path(__file__).resolve().parents[2]
ATSS = ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_focal_1xb8-12e_bccd.py'
FASTER = ROOT / 'configs/bccd/faster-rcnn_efficientnet-lite0_fpn_ce_1xb8-12e_bccd.py'
MASK = ROOT / 'configs/shapes/mask-rcnn_efficientnet-lite0_fpn_ce_1xb8-12e_shapes.py'


def detector(path=ATSS, name='ATSS'):
    return Detector(name, str(path))


def plan(folder, *arguments, detectors=(f'ATSS={ATSS}',)):
    """What ``compare FOLDER --detectors ... ARGUMENTS`` runs."""
    from bucketed_losses.cli.compare import plan_from

    return plan_from(parse('compare', [folder, '--detectors', *detectors, *arguments]))


def finished(study, name, loss, seed, curve, **more):
    """The files that a finished run leaves."""
    folder = study.folder(name, loss, seed)
    (folder / 'now/vis_data').mkdir(parents=True)
    lines = [dict(loss=1.0, step=1, **more)]
    for epoch, ap in curve:
        metrics = {'bbox_mAP': ap, 'bbox_mAP_50': ap + 0.1, 'bbox_mAP_75': ap - 0.1, 'bbox_mAP_s': 0.1}
        lines.append({'step': epoch, **{f'coco/{k}': v for k, v in metrics.items()}, 'coco/cell_precision': ap / 2})
    (folder / 'now/vis_data/scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    study.write_result(
        dict(detector=name, loss=loss, seed=seed, outcome='finished', detail='', peak_rss_mb=1000.4,
             seconds_since_start=600, jobs=1)
    )  # fmt: skip


def make_up(folder):
    """A study with its report, made of files alone."""
    study = Study(folder)
    for name, model in (('A', 'ATSS'), ('F', 'FasterRCNN')):
        for loss in ('stock', 'rs', 'brs'):
            cls, box = ('Focal', 'GIoU') if name == 'A' else ('CE', 'L1')
            study.remember(name, loss, cls, box, model, (True, 12))
    study.remember('A', 'dr', 'DR', 'GIoU', 'ATSS', (True, 12))
    study.remember('A', EQUAL_TIME, 'BucketedRS', 'GIoU', 'ATSS', (True, 18))
    for seed, ap in enumerate((0.5, 0.52, 0.54)):
        finished(study, 'A', 'brs', seed, [(6, ap / 2), (12, ap)])
    finished(study, 'A', 'stock', 0, [(12, 0.4)])
    finished(study, 'A', 'rs', 0, [(12, 0.51)])
    finished(study, 'A', EQUAL_TIME, 0, [(18, 0.6)])
    finished(study, 'F', 'stock', 0, [(12, 0.3)], memory=5000)
    study.write_result(
        dict(detector='A', loss='dr', seed=0, outcome='diverged', detail='loss_cls is nan', peak_rss_mb=900,
             seconds_since_start=60, jobs=1)
    )  # fmt: skip
    measured = dict(seconds_in_losses=0.01, seconds_by_loops=0.5, iterations_per_epoch=10)
    times = {'stock': 1.0, 'brs': 1.05, 'rs, loops timed': 1.1, 'brs, loops timed': 0.9}
    study.write_times('A', {loss: dict(seconds_per_iteration=s, **measured) for loss, s in times.items()})
    for source in ('stock', 'brs'):
        places = {'bbox_head.loss_cls': dict(positives=10, negatives=2000, shares={'Focal': 0.1, 'BRS': 0.5})}
        write_json(folder / f'gradients/A_{source}.json', [dict(checkpoint='1.pth', losses=places)] * 3)
    finished(study, 'F', 'rs', 0, [])  # nothing detected, so nothing but times logged
    with (study.folder('F', 'rs', 0) / 'now/vis_data/scalars.json').open('a') as file:
        file.write('\n{"step": 12, "time": 0.1}')
    write_report(study)
    return study


def write_small_config(folder):
    """A stock ATSS on a handful of drawn shapes, as one file."""
    path = folder / 'stock.py'
    path.write_text(
        f"_base_ = '{ROOT}/configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'\n"
        "model = dict(bbox_head=dict(type='ATSSHead'), test_cfg=dict(score_thr=0.0))\n"
        "model['bbox_head']['loss_cls'] = dict(_delete_=True, type='FocalLoss', use_sigmoid=True)\n"
        'train_dataloader = dict(batch_size=2)\n'
        'train_cfg = dict(max_epochs=2, val_interval=1)\n'
    )
    return path


def study_command(folder, path, *more):
    arguments = [folder, '--detectors', f'ATSS={path}', '--time-iterations', '1', *more]
    return [sys.executable, '-m', 'bucketed_losses', 'compare', *map(str, arguments)]


def call(command):
    """Exit status and output of a command."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def wait_for(condition, process):
    deadline = time.monotonic() + 900
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def training_processes(folder):
    """Process ids of the training runs in a folder, by Linux's /proc."""
    lines = {p.parent.name: p.read_bytes() for p in Path('/proc').glob('[0-9]*/cmdline')}
    return [int(pid) for pid, line in lines.items() if b'study.child\0train' in line and str(folder).encode() in line]
