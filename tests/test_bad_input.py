"""What a user gets wrong by command line: one line on stderr that says what to do, exit status 2, nothing half-written.

The table of issue 30. Command lines run in this process where they can; the data set is a few drawn squares.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmdet')

import cv2
import numpy as np
from launching import ROOT, environment, free_port
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope

from bucketed_losses import errors
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.config_checks import find_config, read_config
from bucketed_losses.new_files import check_folder, new_files

MODULES = {name: name for name in ('train', 'test', 'calibrate', 'swap_loss', 'plot_ranks', 'convert_published')}
CLASSES = ('square', 'dot')
MMDET_CONFIG = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'


@HOOKS.register_module()
class PressCtrlC(Hook):
    """Send this process the signal of Ctrl-C after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Four images with a square and a dot each, two files of annotations, and a config of a very small detector."""
    folder = tmp_path_factory.mktemp('squares')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 5):
        picture = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        images.append(dict(id=number, file_name=f'{number}.png', width=64, height=64))
        for category, size in ((1, 24), (2, 10)):
            x, y = rng.integers(0, 64 - size, 2).tolist()
            picture[y : y + size, x : x + size] = 255
            box = dict(bbox=[x, y, size, size], area=size * size, iscrowd=0)
            annotations.append(dict(box, id=len(annotations) + 1, image_id=number, category_id=category))
        cv2.imwrite(str(folder / f'{number}.png'), picture)
    categories = [dict(id=index, name=name) for index, name in enumerate(CLASSES, 1)]
    content = json.dumps(dict(images=images, annotations=annotations, categories=categories))
    for split in ('train', 'val'):
        (folder / f'{split}.json').write_text(content)
    (folder / 'config.py').write_text(CONFIG.replace('FOLDER', f'{folder}/'))
    return folder


CONFIG = """
default_scope = 'mmdet'
custom_imports = dict(imports=['bucketed_losses.mmdet'])
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=4, norm_cfg=dict(type='BN'), init_cfg=None),
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, num_outs=4),
    bbox_head=dict(
        type='RankBasedRetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4, 8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='BucketedRSLoss'), loss_bbox=dict(type='GIoULoss', reduction='none')),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0,
                                 ignore_iof_thr=-1),
                   sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20))
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
data_root = 'FOLDER'
common = dict(type='CheckedCocoDataset', data_root=data_root, data_prefix=dict(img=''),
              metainfo=dict(classes=('square', 'dot')), pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(ann_file='train.json', filter_cfg=dict(filter_empty_gt=True), **common))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='val.json', test_mode=True, **common))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.001))
default_hooks = dict(checkpoint=dict(type='AtomicCheckpointHook', interval=1), logger=dict(type='LoggerHook'))
"""


@pytest.fixture
def command(monkeypatch):
    """Run the ``main`` of a command line; returns its exit status and what it has written to stderr."""

    def run(tool, *arguments):
        module = importlib.import_module(MODULES[tool])
        monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py'])
        # MMEngine's loggers keep the stream of their first message, which pytest's own would close.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
            try:
                module.main([str(argument) for argument in arguments])
            except SystemExit as end:
                return end.code, err.getvalue()
        return 0, err.getvalue()

    return run


@pytest.fixture
def refused(command):
    """Run a command line that must refuse its input in one line with some words (regular expressions)."""

    def run(tool, arguments, *words):
        code, err = command(tool, *arguments)
        assert code == 2 and 'Traceback' not in err, err
        (line,) = [line for line in err.splitlines() if line.startswith(f'{tool}.py: error: ')]
        for word in words:
            assert re.search(word, line), line

    return run


def changed(source, target, change):
    """A copy of an annotation file with a change of its content."""
    content = json.loads(source.read_text())
    change(content)
    target.write_text(json.dumps(content))
    return target


def training(data, tmp_path, *options):
    return [data / 'config.py', '--work-dir', tmp_path / 'run', '--cfg-options', *options]


def on_file(split, path):
    """Options that let the training, or the validation and the test, read another file."""
    if split == 'train':
        return [f'train_dataloader.dataset.ann_file={path}']
    parts = [f'{loop}_dataloader.dataset.ann_file={path}' for loop in ('val', 'test')]
    return [*parts, *(f'{loop}_evaluator.ann_file={path}' for loop in ('val', 'test'))]


# Classes


def drop_category(*names):
    def change(content):
        gone = {entry['id'] for entry in content['categories'] if entry['name'] in names}
        content['categories'] = [entry for entry in content['categories'] if entry['id'] not in gone]
        content['annotations'] = [entry for entry in content['annotations'] if entry['category_id'] not in gone]

    return change


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CocoDataset'])
def test_a_file_with_fewer_classes(kind, split, data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'few.json', drop_category('square'))
    options = [*on_file(split, path), f'{split}_dataloader.dataset.type={kind}']
    words = (rf'{split}_dataloader.dataset: .*few\.json has no category for 1 of the 2 classes', 'square; it has dot')
    refused('train', training(data, tmp_path, *options), *words, 'num_classes')
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_a_file_with_fewer_classes_is_not_tested(data, trained, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'few.json', drop_category('square'))
    config, *options = training(data, tmp_path, *on_file('val', path))
    for tool in ('test', 'calibrate'):
        refused(tool, [config, trained, *options], r'few\.json has no category for 1 of the 2 classes.*: square;')


COMMON = dict(data_prefix=dict(img=''), pipeline=[])


def data_set(kind, path, classes=CLASSES, **more):
    return dict(type=kind, ann_file=str(path), metainfo=dict(classes=classes), **COMMON, **more)


WRAPPERS = {
    'dataset.dataset': lambda good, bad: dict(type='RepeatDataset', times=2, dataset=bad),
    'dataset.datasets.1': lambda good, bad: dict(type='ConcatDataset', datasets=[good, bad]),
    'dataset.dataset.dataset': lambda good, bad: dict(
        type='RepeatDataset', times=2, dataset=dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=bad)
    ),
}


class Loops:
    """What the checks of data use of a runner."""

    def __init__(self, dataset):
        self.cfg = Config(dict(train_dataloader=dict(dataset=dataset)))

    @cached_property
    def train_loop(self):
        init_default_scope('mmdet')
        dataset = DATASETS.build(self.cfg.train_dataloader.dataset)
        return SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))


@pytest.mark.parametrize('where', WRAPPERS)
def test_wrapped_data_sets(where, data, tmp_path):
    from bucketed_losses.mmdet.engine.config_checks import check_classes, check_not_empty

    def checked(path, **more):
        good, bad = (data_set('CocoDataset', file, **more) for file in (data / 'train.json', path))
        loops = Loops(WRAPPERS[where](good, bad))
        check_not_empty(loops, ['train'])
        check_classes(loops, ['train'])

    checked(data / 'val.json')
    few = changed(data / 'val.json', tmp_path / 'few.json', drop_category('dot'))
    with pytest.raises(
        UserError, match=rf'train_dataloader\.{where}: .*few\.json has no category for 1 of .*: dot; it'
    ):
        checked(few)
    none = changed(data / 'val.json', tmp_path / 'none.json', lambda content: content.update(images=[], annotations=[]))
    for serialize_data in (True, False):
        with pytest.raises(UserError, match=rf'train_dataloader\.{where}: CocoDataset has no images: in .*none\.json'):
            checked(none, serialize_data=serialize_data)


def as_lvis(content):
    for image in content['images']:
        url = f'http://images.cocodataset.org/{image["file_name"]}'
        image.update(coco_url=url, neg_category_ids=[], not_exhaustive_category_ids=[])


@pytest.mark.parametrize('kind', ['LVISV1Dataset', 'CheckedLVISV1Dataset', 'CityscapesDataset'])
def test_classes_of_other_formats(kind, data, tmp_path):
    from bucketed_losses.mmdet.engine.config_checks import check_classes

    if 'LVIS' in kind:
        pytest.importorskip('lvis')
    path = changed(data / 'val.json', tmp_path / 'lvis.json', as_lvis)
    check_classes(Loops(data_set(kind, path)), ['train'])
    with pytest.raises(
        UserError, match=r'lvis\.json has no category for 1 of the 3 classes .*: star; it has square, dot'
    ):
        check_classes(Loops(data_set(kind, path, classes=(*CLASSES, 'star'))), ['train'])


def test_what_works_is_not_refused(data, tmp_path):
    """More categories than classes, training data without annotations, and a class without objects."""
    from bucketed_losses.mmdet.engine.config_checks import check_classes, check_not_empty

    unlabeled = changed(data / 'val.json', tmp_path / 'a.json', lambda c: c.update(annotations=[], categories=[]))
    more = changed(data / 'val.json', tmp_path / 'b.json', lambda c: c['categories'].append(dict(id=9, name='star')))
    lonely = changed(data / 'val.json', tmp_path / 'c.json', lambda c: c.update(annotations=c['annotations'][::2]))
    datasets = [data_set('CheckedCocoDataset', path) for path in (unlabeled, more, lonely)]
    loops = Loops(dict(type='ConcatDataset', datasets=datasets))
    check_not_empty(loops, ['train'])
    check_classes(loops, ['train'])


# Images and boxes


def test_an_empty_validation_set(data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'none.json', lambda c: c.update(images=[], annotations=[]))
    words = (r'val_dataloader\.dataset: CheckedCocoDataset has no images: in .*none\.json', 'filter_cfg')
    refused('train', training(data, tmp_path, *on_file('val', path)), *words)


def test_the_empty_one_of_several_data_sets_is_named(data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'none.json', lambda c: c.update(images=[], annotations=[]))
    config = tmp_path / 'two.py'
    config.write_text(
        f"_base_ = '{data}/config.py'\n"
        'train_dataloader = dict(dataset=dict(_delete_=True, type="ConcatDataset", datasets=[\n'
        f'    dict(ann_file="train.json", **_base_.common), dict(ann_file="{path}", **_base_.common)]))\n'
    )
    words = r'train_dataloader\.dataset\.datasets\.1: CheckedCocoDataset has no images: in .*none\.json'
    refused('train', [config, '--work-dir', tmp_path / 'run'], words)


def small_images(content):
    for image in content['images']:
        image.update(width=1, height=1)
    for annotation in content['annotations']:
        annotation['bbox'][:2] = [5, 5]


def test_all_boxes_of_a_file_are_left_out(data, tmp_path, refused):
    path = changed(data / 'train.json', tmp_path / 'bad.json', small_images)
    words = r'bad\.json: no usable box is left of its boxes: 8 outside the image \(annotation ids 1, 2, 3, 4, 5, …\)'
    refused('train', training(data, tmp_path, *on_file('train', path)), words)


def relative_boxes(content):
    for annotation in content['annotations']:
        annotation['bbox'] = [value / 64 for value in annotation['bbox']]


@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CocoDataset'])
def test_no_box_is_large_enough_to_train_on(kind, data, tmp_path, refused):
    """Coordinates from 0 to 1, which MMDetection leaves out in silence."""
    path = changed(data / 'train.json', tmp_path / 'bad.json', relative_boxes)
    options = [*on_file('train', path), f'train_dataloader.dataset.type={kind}']
    refused('train', training(data, tmp_path, *options), r'there is no object to train on in .*bad\.json.*pixel')


def lose(content):
    content['annotations'][0]['category_id'] = 7
    content['annotations'][1]['image_id'] = 99
    content['annotations'][2].update(category_id='1', bbox=[0, 0, 0, 0])


@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CheckedLVISV1Dataset', 'CheckedCityscapesDataset'])
def test_lost_objects_are_counted(kind, data, tmp_path, monkeypatch):
    if 'LVIS' in kind:
        pytest.importorskip('lvis')
    logged = []
    where = 'bucketed_losses.mmdet.datasets.checked_coco.print_log'
    monkeypatch.setattr(where, lambda message, *args: logged.append(message))
    path = changed(data / 'train.json', tmp_path / 'bad.json', lambda c: (as_lvis(c), lose(c)))
    built = DATASETS.build(data_set(kind, path))
    assert sum(len(built.get_data_info(index)['instances']) for index in range(len(built))) == 5
    (warning,) = logged
    assert '1 on an image that the file does not have (annotation ids 2)' in warning
    assert '2 of a category that the file does not have (annotation ids 1, 3)' in warning
    assert 'zero' not in warning  # each is counted once


TWICE = {
    'the same category id occurs more than once: 1$': lambda c: c['categories'].append(dict(id=1, name='star')),
    'the same category name occurs more than once: dot$': lambda c: c['categories'].append(dict(id=3, name='dot')),
    'the same image id occurs more than once: 2, 3$': lambda c: c['images'].extend(c['images'][1:3]),
}


@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CheckedLVISV1Dataset', 'CheckedCityscapesDataset'])
@pytest.mark.parametrize('words', TWICE)
def test_the_same_id_twice(words, kind, data, tmp_path):
    if 'LVIS' in kind:
        pytest.importorskip('lvis')
    path = changed(data / 'train.json', tmp_path / 'bad.json', lambda c: (as_lvis(c), TWICE[words](c)))
    with pytest.raises(UserError, match=words):
        DATASETS.build(data_set(kind, path))


@pytest.mark.parametrize('words', TWICE)
def test_the_same_id_twice_by_command_line(words, data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'bad.json', TWICE[words])
    refused('train', training(data, tmp_path, *on_file('val', path)), rf'bad\.json: {words}')


def test_an_unused_category_name_may_occur_twice(data, tmp_path):
    def twice(content):
        content['categories'] += [dict(id=8, name='star'), dict(id=9, name='star')]

    path = changed(data / 'val.json', tmp_path / 'a.json', twice)
    assert len(DATASETS.build(data_set('CheckedCocoDataset', path))) == 4


@pytest.mark.parametrize('field', ['category_id', 'bbox', 'area', 'image_id'])
def test_an_annotation_without_a_field(field, data, tmp_path, refused):
    path = changed(data / 'train.json', tmp_path / 'bad.json', lambda c: c['annotations'][2].pop(field))
    refused('train', training(data, tmp_path, *on_file('train', path)), rf'bad\.json: annotation 3 has no {field}$')


def test_missing_data_say_where_to_get_them(tmp_path, refused):
    pytest.importorskip('efficientnet_lite_pytorch')
    config = ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py'
    arguments = [config, '--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={tmp_path}']
    refused('train', arguments, 'annotation file .*train.json does not exist', 'BCCD_ROOT')


# Configs


BROKEN = {
    'nowhere.py': (None, r'nowhere\.py: there is no file'),
    'config.txt': ('', r'must end in \.py'),
    'base.py': ("_base_ = './nowhere.py'\n", r'base\.py: .*missing: .*nowhere\.py'),
    'syntax.py': ('a = 1\nmodel = dict(\n', r"syntax\.py: syntax error in this file, line 2, 'model = dict\('"),
    'inherits.py': (
        "_base_ = './wrong.py'\n",
        r"inherits\.py: syntax error in a file that it inherits, line 1, 'b = \['",
    ),
    'name.py': (
        'a = 1\nmodel = nothing\n',
        r"name\.py: NameError: name 'nothing' is not defined \(.*name\.py, line 2\)",
    ),
    'module.py': ("custom_imports = dict(imports=['no_such_module'])\n", r'module\.py: .*no_such_module'),
    'data.json': ('{"model": ', r'data\.json: '),
    'empty.py': ("work_dir = 'x'\n", r'empty\.py.* has no model'),
}


@pytest.mark.parametrize('tool', ['train', 'test', 'calibrate', 'swap_loss', 'plot_ranks', 'convert_published'])
@pytest.mark.parametrize('name', BROKEN)
def test_a_config_that_cannot_be_read(name, tool, trained, tmp_path, refused):
    text, words = BROKEN[name]
    (tmp_path / 'wrong.py').write_text('b = [\n')
    if text is not None:
        (tmp_path / name).write_text(text)
    if tool == 'swap_loss' and name == 'module.py':
        pytest.skip('it imports nothing')
    more = {'train': [], 'swap_loss': [], 'test': [trained], 'calibrate': [trained]}
    arguments = [tmp_path / name, *more.get(tool, [trained, tmp_path / 'out'])]
    refused(tool, arguments, words)


@pytest.mark.parametrize('key', ['train_dataloader', 'optim_wrapper', 'train_cfg', 'val_evaluator'])
def test_a_config_without_a_part_of_a_training(key, data, tmp_path, refused):
    config = tmp_path / 'part.py'
    config.write_text(f"_base_ = '{data}/config.py'\n{key} = None\n")
    refused('train', [config, '--work-dir', tmp_path / 'run'], rf'part\.py has no {key};')


def test_configs_by_package_name(trained, tmp_path, refused, command):
    """``mmdet::`` in every command that takes a config: the first thing that is wrong is the data."""
    if not find_config(MMDET_CONFIG).is_file():
        pytest.skip('needs the configs of an installed MMDetection')
    options = ['--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={tmp_path}/']
    missing = r'retinanet_r50_fpn_1x_coco\.py: .*instances_{}2017\.json does not exist'
    refused('train', [MMDET_CONFIG, *options], missing.format('train'))
    refused('test', [MMDET_CONFIG, trained, *options], missing.format('val'))
    refused('calibrate', [MMDET_CONFIG, trained, *options], missing.format('val'))
    refused('plot_ranks', [MMDET_CONFIG, trained, tmp_path / 'x.png', *options], missing.format('train'))
    refused('train', [MMDET_CONFIG.replace('1x', '1y'), *options], "there is no file .*did you mean 'retinanet_r50")
    refused('train', ['nopackage::a.py', *options], 'the package nopackage is not installed')
    assert command('swap_loss', MMDET_CONFIG)[0] == 0
    assert read_config(MMDET_CONFIG).model.type == 'RetinaNet'


@pytest.mark.parametrize('option, words', [('a', "KEY=VALUE, got 'a'"), ('pipeline.9.x=1', '--cfg-options')])
def test_wrong_options(option, words, data, tmp_path, command):
    code, err = command('train', *training(data, tmp_path, option))
    assert code == 2 and words in err and 'Traceback' not in err


# Launchers


@pytest.mark.parametrize(
    'launcher, words',
    [
        ('pytorch', r'RANK, WORLD_SIZE not set.*tools/dist_train\.sh CONFIG GPUS'),
        ('slurm', r'SLURM_PROCID.*not set.*tools/slurm_train\.sh PARTITION'),
        ('mpi', 'OMPI_COMM_WORLD_RANK.*not set.*mpirun'),
    ],
)
def test_a_launcher_that_did_not_start_the_process(launcher, words, data, trained, tmp_path, refused, monkeypatch):
    for name in [name for name in os.environ if name.startswith(('SLURM_', 'OMPI_')) or name in ('RANK', 'WORLD_SIZE')]:
        monkeypatch.delenv(name)
    for tool, arguments in (('train', []), ('test', [trained]), ('calibrate', [trained])):
        refused(tool, [data / 'config.py', *arguments, '--launcher', launcher], f'--launcher {launcher}: .*{words}')


def test_another_process_reports_what_the_first_does_not(capsys, monkeypatch):
    """The first process reports at once; another one when its launcher has not ended it."""

    @errors.one_line_errors
    def main():
        raise UserError('two\nlines')

    waited = []
    monkeypatch.setattr(errors.time, 'sleep', waited.append)
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    for variable, number, text in (('RANK', 0, ''), ('RANK', 3, ' (process 3)'), ('SLURM_PROCID', 1, ' (process 1)')):
        monkeypatch.delenv('RANK', raising=False)
        monkeypatch.setenv(variable, str(number))
        with pytest.raises(SystemExit, match='two\nlines') as end:
            main()
        assert end.value.code == 2
        assert capsys.readouterr().err == f'train.py: error{text}: two lines\n'
    assert waited == [errors.SECONDS_FOR_FIRST] * 2


def test_an_error_in_the_config_is_printed_once_by_torchrun(data, tmp_path):
    """And without torchrun's own traceback."""
    options = ['--work-dir', tmp_path / 'run', '--cfg-options', 'model.bbox_head.loss_cls.type=BucketedRSLos']
    command = [ROOT / 'tools/dist_train.sh', data / 'config.py', '2', *options]
    env = environment(data, Path(sys.executable), PORT=free_port())
    began = time.monotonic()
    result = subprocess.run(list(map(str, command)), env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("did you mean 'BucketedRSLoss'") == 1, result.stderr
    assert 'Traceback' not in result.stderr and time.monotonic() - began < 300


# Output


@pytest.fixture
def unwritable(tmp_path):
    """Paths that no file can be written below: a file, a folder below it and, if one can be had, a read-only folder."""
    file, locked = tmp_path / 'a_file', tmp_path / 'locked'
    file.write_text('precious')
    locked.mkdir()
    locked.chmod(0o555)
    mounted = False
    if os.access(locked, os.W_OK):  # as root
        mount = ['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', locked]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield [file, file / 'below', *([] if os.access(locked, os.W_OK) else [locked, locked / 'below'])]
    if mounted:
        subprocess.run(['umount', '-l', locked], check=True)
    locked.chmod(0o755)
    assert file.read_text() == 'precious'


def test_an_output_folder_that_cannot_be_written_to(data, trained, unwritable, tmp_path, refused):
    config = data / 'config.py'
    for path in unwritable:
        words = r'a_file is a file' if 'a_file' in str(path) else r'no files can be written to .*locked'
        refused('train', [config, '--work-dir', path], rf'--work-dir\) {path}: .*{words}')
        refused('test', [config, trained, '--work-dir', path], rf'--work-dir\) {path}: .*{words}')
        refused('calibrate', [config, trained, '--out-dir', path], rf'--out-dir\) {path}: .*{words}')
        refused('swap_loss', [MMDET_CONFIG, '-o', path / 'new.py'], rf'new\.py cannot be written to {path}: ')


@pytest.fixture
def small_files():
    """A function after which this process may write no file of more bytes (None: as before), as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, before if size is None else (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_new_files_are_whole_or_not_there(tmp_path, small_files):
    old, new = tmp_path / 'old.txt', tmp_path / 'folder/new.txt'
    old.write_text('old')
    with new_files(old, new) as names:
        for name in names:
            name.write_text('written')
        assert old.read_text() == 'old' and not new.exists() and names[0].suffix == '.txt'
    assert old.read_text() == new.read_text() == 'written'
    small_files(1000)
    words = rf'old\.txt, other\.txt cannot be written to {tmp_path}: File too large'
    with pytest.raises(UserError, match=words), new_files(old, tmp_path / 'other.txt') as names:
        names[1].write_text('short')
        names[0].write_bytes(b'x' * 2000)
    with pytest.raises(RuntimeError, match='other'), new_files(old) as (name,):
        name.write_text('half')
        raise RuntimeError('other')
    assert old.read_text() == 'written'
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['folder', 'new.txt', 'old.txt']
    check_folder('folder', tmp_path / 'may/be/missing')


def test_a_full_disk_in_calibrate(data, trained, tmp_path, refused, command, small_files, monkeypatch):
    import bucketed_losses.mmdet.evaluation as evaluation

    module = importlib.import_module(MODULES['calibrate'])
    report = evaluation.CalibrationReport(0.0, 0.0)
    matches = [evaluation.ClassMatches(*(np.array([0.5, 0.6]) for _ in range(4)), 1)] * 2
    fitted = module.ScoreCalibration(2, 3), [True, True]
    monkeypatch.setattr(module, 'fit_calibration', lambda *args: fitted)  # four images are not enough for a real one
    monkeypatch.setattr(module, 'cross_validated', lambda *args: matches)
    monkeypatch.setattr(module, 'calibration_errors', lambda *args: report)
    arguments = [data / 'config.py', trained, '--out-dir', tmp_path / 'out', '--work-dir', tmp_path / 'run']
    small_files(trained.stat().st_size // 2)
    refused('calibrate', arguments, r'config_calibrated\.pth, .* cannot be written to .*out: File too large')
    assert not list((tmp_path / 'out').iterdir())
    small_files(None)
    assert command('calibrate', *arguments)[0] == 0
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == [f'config_calibrated.{suffix}' for suffix in ('png', 'pth', 'py')]


# Checkpoints


@pytest.fixture(scope='module')
def trained(data):
    """A checkpoint of the config's model."""
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(read_config(data / 'config.py').model)
    path = data / 'trained.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return path


DAMAGES = {
    'missing': (lambda path, content: path.unlink(), 'there is no such file'),
    'empty': (lambda path, content: path.write_bytes(b''), ''),
    'truncated': (lambda path, content: path.write_bytes(content[: len(content) // 2]), 'it is truncated'),
    'flipped': (
        lambda path, content: path.write_bytes(content[:9000] + bytes(50) + content[9050:]),
        'is not a complete checkpoint',
    ),
    'text': (lambda path, content: path.write_text('epoch_1 is elsewhere\n'), 'not a checkpoint'),
    'tensor': (lambda path, content: torch.save(torch.zeros(2), path), 'holds a Tensor, not a checkpoint'),
    'folder': (lambda path, content: (path.unlink(), path.mkdir()), 'directory'),
}


@pytest.mark.parametrize('tool', ['test', 'calibrate', 'plot_ranks', 'convert_published', 'train'])
@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint(damage, tool, data, trained, tmp_path, refused):
    path = tmp_path / 'bad.pth'
    path.write_bytes(trained.read_bytes())
    change, words = DAMAGES[damage]
    change(path, path.read_bytes())
    more = {'plot_ranks': [tmp_path / 'out.png'], 'convert_published': [tmp_path / 'out.pth']}.get(tool, [])
    arguments = [data / 'config.py', *(['--resume'] if tool == 'train' else []), path, *more]
    arguments += [] if tool == 'convert_published' else ['--work-dir', tmp_path / 'run']
    refused(tool, arguments, r'bad\.pth', words if tool != 'train' else '')
    if tool == 'train' and damage != 'folder':
        options = ['--cfg-options', f'load_from={path}', '--work-dir', tmp_path / 'run']
        refused('train', [data / 'config.py', *options], r'bad\.pth', words)


# Ctrl-C


@pytest.mark.parametrize(
    'loop, where', [('epoch', 'epoch 2 of 2, iteration 2 of 4'), ('iteration', 'iteration 2 of 4')]
)
def test_ctrl_c_in_training(loop, where, data, tmp_path, command):
    config, work_dir = tmp_path / 'stopped.py', tmp_path / 'run'
    hook = dict(type='PressCtrlC', iteration=3)
    iterations = "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4, val_interval=4)\n"
    config.write_text(f"_base_ = '{data}/config.py'\ncustom_hooks = [{hook}]\n{iterations if loop != 'epoch' else ''}")
    handler = signal.getsignal(signal.SIGINT)
    try:
        code, err = command('train', config, '--work-dir', work_dir)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert code == 130 and 'Traceback' not in err, err
    (line,) = [line for line in err.splitlines() if 'Stopped at' in line]
    assert line.startswith(f'train.py: Stopped at {where}; '), line
    if loop == 'epoch':
        assert line.endswith(f'go on with --resume (from {work_dir}/epoch_1.pth)'), line
    else:
        assert 'no checkpoint is written yet, so --resume starts from the beginning' in line
    (work_dir / 'last_checkpoint').unlink(missing_ok=True)


def test_the_files_of_a_test_and_a_picture_have_a_folder(data, trained, tmp_path, refused):
    """Refused before the work, not after it."""
    file = tmp_path / 'a_file'
    file.write_text('')
    common = [data / 'config.py', trained]
    refused('test', [*common, '--out', file / 'x.pkl', '--work-dir', tmp_path / 'run'], r'--out .*a_file is a file')
    refused('plot_ranks', [*common, file / 'x.png', '--work-dir', tmp_path / 'run'], r'picture .*a_file is a file')


def test_debug_shows_the_traceback(data, tmp_path, monkeypatch):
    import train

    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    with pytest.raises(UserError, match='is a file'):
        train.main([str(data / 'config.py'), '--work-dir', str(data / 'config.py'), '--debug'])


@pytest.mark.slow
def test_ctrl_c_in_training_with_workers(data, tmp_path):
    """As a terminal sends it: to all processes, and twice."""
    options = ['train_dataloader.num_workers=2', 'train_dataloader.batch_size=1', 'train_cfg.max_epochs=1000']
    options += ['train_dataloader.persistent_workers=True', 'train_cfg.val_interval=1000']  # no forks while it runs
    arguments = training(data, tmp_path, *options)
    log = tmp_path / 'log'
    with log.open('w') as output:
        process = subprocess.Popen(
            list(map(str, [sys.executable, ROOT / 'tools/train.py', *arguments])),
            env=environment(data, Path(sys.executable)),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / 'run/last_checkpoint').is_file():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.2)
        assert process.wait(60) == 130, log.read_text()[-3000:]
    finally:
        process.kill()
    assert 'Traceback' not in log.read_text(), log.read_text()[-3000:]
    assert 'go on with --resume (from ' in log.read_text()
