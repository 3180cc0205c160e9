"""What the visualisation hook sees and draws, rank plots, and calibration, on a detector that is really trained."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

import cv2
import numpy as np
import torch
from command_line import command
from small_anchor_heads import OBJECTS, build_head, features, loss_of

from bucketed_losses.cli import plot_ranks
from bucketed_losses.mmdet.engine import safe_load
from bucketed_losses.mmdet.engine.ranking_visualization_hook import RankingVisualizationHook
from bucketed_losses.mmdet.evaluation import watch_ranking_losses
from bucketed_losses.mmdet.evaluation.ranking_pictures import draw_logits, draw_precision_recall

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'


def watched(head):
    seen = []
    with watch_ranking_losses(head, seen.append) as names:
        losses = loss_of(head)
    loss_of(head)  # no longer watched
    return names, seen, losses


def test_watching_sees_what_is_ranked_and_changes_nothing():
    head = build_head(dict(type='RSLoss', loss_weight=2.0))
    plain = loss_of(build_head(dict(type='RSLoss', loss_weight=2.0)))
    names, (batch,), losses = watched(head)
    assert names == ['loss_cls'] and batch.name == 'loss_cls'
    assert all(torch.equal(losses[key], plain[key]) for key in plain)
    cls_scores, _ = head(features())
    assert batch.logits.shape == (sum(x.numel() for x in cls_scores) // 3, 3) and not batch.logits.requires_grad
    assert batch.targets.shape == batch.logits.shape
    assert ((batch.targets > 0).sum(dim=1) <= 1).all() and (batch.targets > 0).sum() >= len(OBJECTS)
    for part in ('loss_rank', 'loss_sort'):  # without the loss's weight
        assert batch.errors[part].item() == pytest.approx(losses[part].item() / 2)


def test_histograms_count_every_logit_that_takes_part():
    hook = RankingVisualizationHook()
    head = build_head('BucketedAPLoss')
    _, (batch,), _ = watched(head)
    batch = batch._replace(logits=torch.linspace(-40, 40, batch.logits.numel()).reshape(batch.logits.shape))
    hook._look(batch)
    hook._look(batch)
    negatives, positives = hook._counts['loss_cls']
    assert negatives.sum() == 2 * (batch.targets == 0).sum() and positives.sum() == 2 * (batch.targets > 0).sum()
    assert negatives[0] > negatives[60]  # logits beyond the range are in the outermost bins
    (errors,) = hook._errors.values()
    assert len(errors) == 2
    image = draw_logits(hook._counts, epoch=1)
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.std() > 10
    with pytest.raises(ValueError, match='interval'):
        RankingVisualizationHook(interval=0)


def test_precision_recall_of_many_classes():
    rng = np.random.default_rng(0)
    precision = np.sort(rng.random((2, 101, 40)), axis=1)[:, ::-1]
    image = draw_precision_recall(np.linspace(0, 1, 101), precision, [f'class {i}' for i in range(40)], (0.5, 0.75))
    assert image.shape[1] > image.shape[0] and image.std() > 10


def test_rank_order_and_buckets():
    from bucketed_losses.mmdet.evaluation import RankedBatch

    logits = torch.tensor([[3.0, 1.0], [2.0, 0.0], [-1.0, 5.0]])
    targets = torch.tensor([[0.0, 0.8], [0.5, 0.0], [0.0, -1.0]])
    ordered, labels, bucket = plot_ranks.rank_order(RankedBatch('loss_cls', logits, targets, {}))
    assert ordered.tolist() == [3, 2, 1, 0, -1]
    assert labels.tolist() == pytest.approx([0, 0.5, 0.8, 0, 0])
    assert bucket.tolist() == [0, 1, 2, 2, 2]
    # A negative with the logit of a positive is above it.
    tied = RankedBatch('loss_cls', torch.ones(1, 3), torch.tensor([[0.0, 0.5, 0.0]]), {})
    assert plot_ranks.rank_order(tied)[2].tolist() == [0, 0, 1]


def run(shapes_root, tool, *arguments, check=True):
    result = subprocess.run(
        command(tool, *arguments),
        cwd=ROOT,
        env={**os.environ, 'SHAPES_ROOT': str(shapes_root), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def trained(shapes_root, tmp_path_factory):
    """Three epochs on a few shapes, with the hook and two vis backends."""
    pytest.importorskip('efficientnet_lite_pytorch')
    pytest.importorskip('tensorboard')
    folder = tmp_path_factory.mktemp('pictures')
    config = folder / 'with_pictures.py'
    config.write_text(
        f"_base_ = '{CONFIG}'\n"
        'train_cfg = dict(max_epochs=3, val_interval=1)\n'
        'train_dataloader = dict(batch_size=2)\n'
        "visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])\n"
        "custom_hooks = [dict(type='RankingVisualizationHook', interval=2)]\n"
    )
    output = run(shapes_root, 'train', config, '--work-dir', folder / 'run')
    return config, folder / 'run', output


def test_the_hook_draws_through_every_backend(trained):
    _, work_dir, output = trained
    images = sorted(path.name for path in work_dir.glob('*/vis_data/vis_image/*.png'))
    assert images == ['logits_1.png', 'logits_2.png', 'logits_3.png', 'precision_recall_3.png']
    assert all(cv2.imread(str(path)).std() > 5 for path in work_dir.glob('*/vis_data/vis_image/*.png'))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = work_dir.glob('*/vis_data/events*')
    log = EventAccumulator(str(events)).Reload()
    assert {'logits', 'precision_recall'} <= set(log.Tags()['images'])
    errors = [event.value for event in log.Scalars('ranking_error/bbox_head.loss_cls')]
    assert len(errors) == 3 and all(0 < error < 1 for error in errors)
    assert 'sorting_error/bbox_head.loss_cls' in log.Tags()['scalars']
    assert re.search(r'Epoch 1: ranking_error/bbox_head.loss_cls 0\.\d+, sorting_error', output)


def test_plot_ranks(trained, shapes_root, tmp_path):
    config, work_dir, _ = trained
    out = tmp_path / 'ranks.png'
    arguments = [config, work_dir / 'epoch_3.pth', '--out', out, '--work-dir', tmp_path]
    assert '1 rankings are in' in run(shapes_root, 'plot-ranks', *arguments)
    assert cv2.imread(str(out)).std() > 5


@pytest.mark.medium
def test_plot_ranks_with_torchrun(trained, shapes_root, tmp_path):
    """The first of two processes draws."""
    config, work_dir, _ = trained
    out = tmp_path / 'ranks.png'
    arguments = [config, work_dir / 'epoch_3.pth', '--out', out, '--work-dir', tmp_path, '--launcher', 'pytorch']
    python, *verb = command('plot-ranks', *arguments)
    result = subprocess.run(
        [python, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', *verb],
        cwd=ROOT,
        env={**os.environ, 'SHAPES_ROOT': str(shapes_root), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count('1 rankings are in') == 1 and cv2.imread(str(out)).std() > 5


@pytest.mark.stack
def test_calibrated_checkpoint(trained, shapes_root, tmp_path):
    """The tool, then its config and checkpoint in tools/test.py: the same AP; thresholds speak of precision."""
    config, work_dir, _ = trained
    checkpoint = work_dir / 'epoch_3.pth'
    arguments = [config, checkpoint, '--out', tmp_path, '--work-dir', tmp_path / 'wd', '--iou-thr', '0.1']
    four_images = ['--cfg-options', 'val_dataloader.dataset.ann_file=annotations/train.json']
    four_images.append('val_dataloader.dataset.data_prefix.img=train/')
    output = run(shapes_root, 'calibrate', *arguments, *four_images)
    before, after = map(float, re.search(r'AP +([\d.]+) +([\d.]+)', output).groups())
    assert before == pytest.approx(after, abs=1e-4) and before > 0
    assert re.search(r'D-ECE +0\.\d+ +0\.\d+', output)
    name = 'with_pictures_calibrated'
    assert cv2.imread(str(tmp_path / f'{name}.png')).std() > 5
    state = safe_load(tmp_path / f'{name}.pth')['state_dict']
    assert {'calibration.knots', 'calibration.values'} < set(state)

    from mmengine.config import Config

    calibrated, original = Config.fromfile(tmp_path / f'{name}.py'), Config.fromfile(config)
    assert calibrated.model.type == 'mmdet.CalibratedDetector' and calibrated.model.detector == original.model.type
    ap = [
        re.findall(r'coco/bbox_mAP: ([\d.]+)', run(shapes_root, 'test', *pair, '--work-dir', tmp_path / 'wd', *options))
        for pair, options in (
            ((config, checkpoint), ['--cfg-options', 'model.test_cfg.score_thr=0.0']),
            ((tmp_path / f'{name}.py', tmp_path / f'{name}.pth'), []),
        )
    ]
    assert ap[0] == ap[1]
    again = run(shapes_root, 'calibrate', tmp_path / f'{name}.py', tmp_path / f'{name}.pth', check=False)
    assert 'is already calibrated' in again


def test_a_terminal_sees_a_bar_in_place_of_log_lines(trained, shapes_root, tmp_path):
    config, work_dir, _ = trained
    arguments = [config, work_dir / 'epoch_3.pth', '--out', tmp_path, '--work-dir', tmp_path, '--iou-thr', '0.1']
    images = ['--cfg-options', 'val_dataloader.dataset.ann_file=annotations/train.json']
    images.append('val_dataloader.dataset.data_prefix.img=train/')
    ours, terminal = os.openpty()
    result = subprocess.run(
        command('calibrate', *arguments, *images),
        cwd=ROOT,
        env={**os.environ, 'SHAPES_ROOT': str(shapes_root)},
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    )
    os.close(terminal)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert result.returncode == 0, shown
    assert 'detecting objects in' in shown and '100%' in shown, shown
    assert 'System environment' not in result.stdout + shown and 'Epoch(test)' not in result.stdout + shown
    assert result.stdout.endswith('_calibrated.png\n')


def test_the_detector_applies_maps_and_threshold(shapes_root):
    """In one process: the same boxes, mapped scores, and those under the threshold left out."""
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.pretrained = False
    torch.manual_seed(0)
    cfg.test_cfg.score_thr = 0.0
    plain = MODELS.build(cfg)
    plain.init_weights()
    wrapped = MODELS.build(
        {
            **cfg,
            'type': 'CalibratedDetector',
            'detector': 'ATSS',
            'calibration': dict(num_classes=4, num_knots=3),
            'test_cfg': {**cfg.test_cfg, 'score_thr': 0.3},
        }
    )
    wrapped.load_state_dict(plain.state_dict(), strict=False)
    assert wrapped.bbox_head.test_cfg.score_thr == 0.0 and wrapped.score_thr == 0.3
    wrapped.calibration.values[2] *= 0.01
    inputs = demo_mm_inputs(1, [[3, 96, 96]])
    with torch.no_grad():
        expected, got = (model.eval().test_step(inputs)[0].pred_instances for model in (plain, wrapped))
    kept = expected[(expected.labels != 2) & (expected.scores >= 0.3)]
    assert 0 < len(kept) < len(expected)
    assert torch.equal(got.bboxes, kept.bboxes) and torch.equal(got.labels, kept.labels)
    torch.testing.assert_close(got.scores, kept.scores.double())
    with pytest.raises(KeyError, match="registered detector, got 'ATS'"):
        MODELS.build({**cfg, 'type': 'CalibratedDetector', 'detector': 'ATS', 'calibration': {}})
