"""What a user reads who made a mistake: before anything is built, with the nearest valid name and what to do."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

from command_line import run_verb
from mmengine.config import Config

from bucketed_losses.cli._runner import add_common_arguments
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine import check_files, check_names
from bucketed_losses.mmdet.engine.runner import apply_options, parse_options
from bucketed_losses.mmdet.suggestions import nearest

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ROOT / 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'


def test_nearest():
    assert nearest('bucketedrsloss', ['BucketedRSLoss', 'RSLoss', 'FocalLoss']).startswith(
        "; did you mean 'BucketedRSLoss'"
    )
    assert nearest('zzz', ['BucketedRSLoss']) == ''


@pytest.mark.parametrize(
    ('where', 'name', 'words'),
    [
        ('model.bbox_head.loss_cls.type', 'BucketedRsLos', "'BucketedRSLoss'"),
        ('model.bbox_head.type', 'RankBasedATTSHead', "'RankBasedATSSHead'"),
        ('model.type', 'ATS', "'ATSS'"),
        ('model.backbone.type', 'Resnet', "'ResNet'"),
    ],
)
def test_unknown_names_in_the_model(where, name, words):
    cfg = Config.fromfile(SHAPES)
    check_names(cfg)
    cfg.merge_from_dict({where: name})
    with pytest.raises(KeyError, match=rf'{where}.*{name}.*did you mean.*{words}.*custom_imports'):
        check_names(cfg)


def test_modules_named_in_options_are_imported(tmp_path, monkeypatch):
    """MMEngine imports those of the file only."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'module_in_an_option.py').write_text('')
    monkeypatch.delitem(sys.modules, 'module_in_an_option', raising=False)
    cfg = Config.fromfile(SHAPES)
    apply_options(cfg, {'custom_imports.imports': ['bucketed_losses.mmdet', 'module_in_an_option']})
    assert 'module_in_an_option' in sys.modules
    with pytest.raises(UserError, match=r'--cfg-options: custom_imports: .*no_such_module'):
        apply_options(cfg, {'custom_imports.imports': ['no_such_module']})


def test_options_are_parsed_as_mmengine_does():
    texts = ['a.b=1', 'c=x=y', 'd=[1,(2,z)]', 'e=1.5,None', 'f=', '-g=true']
    expected = {'a.b': 1, 'c': 'x=y', 'd': [1, (2, 'z')], 'e': [1.5, None], 'f': '', '-g': True}
    assert parse_options(texts) == expected
    for folder in ('/d,ata', '/my data', '/a [1', '17'):  # here, MMEngine's syntax would change the name
        assert parse_options([f'data_root={folder}', 'x=1']) == {'data_root': folder, 'x': 1}


@pytest.mark.parametrize(
    ('text', 'words'), [('foo', 'write KEY=VALUE'), ('=1', 'write KEY=VALUE'), ('a=[1,2', 'brackets do not match')]
)
def test_options_of_another_form_are_named(text, words, tmp_path):
    option = ['--cfg-options', text]
    row = 'atss_r50_fpn_brs_4xb4-1x_coco'
    for verb, *arguments in (['gradient-shares', SHAPES, 'epoch_1.pth'], ['reproduce', row, '--dry-run']):
        with pytest.raises(UserError, match=rf'--cfg-options: {words}, got {re.escape(repr(text))}'):
            run_verb(verb, *arguments, *option)
    with pytest.raises(UserError, match=rf'--slurm: {words}'):
        parse_options([text], '--slurm')


def test_a_value_in_place_of_a_dict_is_refused():
    with pytest.raises(UserError, match=r'^--cfg-options: '):
        apply_options(Config(dict(param_scheduler=[dict(type='LinearLR')])), {'param_scheduler.0': 1})


def test_options_that_are_given_twice_are_joined():
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    args = parser.parse_args(['--cfg-options', 'a=1', 'b=2', '--cfg-options', 'b=3'])
    assert args.cfg_options == {'a': 1, 'b': 3}


def test_every_config_here_passes_the_check_of_names():
    configs = [p for p in (ROOT / 'configs').glob('*/*.py') if '_base_' not in p.parts]
    assert len(configs) > 60
    for path in configs[::6]:
        check_names(Config.fromfile(path))


def loader(kind, **kwargs):
    return Config(dict(train_dataloader=dict(dataset=dict(type=kind, **kwargs))))


def test_missing_annotation_files(tmp_path):
    (tmp_path / 'a.json').write_text('{}')
    use = ('train_dataloader', 'val_dataloader')
    check_files(loader('CocoDataset', data_root=str(tmp_path), ann_file='a.json'), use)
    check_files(loader('CocoDataset', ann_file='s3://bucket/a.json'), use)
    check_files(loader('CocoDataset', data_root='s3://bucket/', ann_file='a.json'), use)
    check_files(loader('MyDataset', ann_file=['a.json', 'b.json']), use)
    check_files(loader('CocoDataset', ann_file='b.json', backend_args=dict(backend='petrel')), use)
    check_files(loader('CocoDataset', ann_file=''), use)
    with pytest.raises(FileNotFoundError, match=r'dataset.ann_file: .*b\.json does not exist.*data_root'):
        check_files(loader('CocoDataset', data_root=str(tmp_path), ann_file='b.json'), use)
    with pytest.raises(FileNotFoundError, match='is a folder'):
        check_files(loader('MyDataset', ann_file=str(tmp_path)), use)
    with pytest.raises(ValueError, match=r'CocoDataset reads \.json files, got .*a\.txt'):
        check_files(loader('CocoDataset', ann_file='a.txt'), use)
    nested = loader('RepeatDataset', dataset=dict(type='VOCDataset', ann_file='a.json'))
    with pytest.raises(ValueError, match=r'train_dataloader.dataset.dataset.ann_file: VOCDataset reads \.txt'):
        check_files(nested, use)


def test_a_missing_file_of_an_evaluator(tmp_path):
    (tmp_path / 'a.json').write_text('{}')
    for kind, file, words in (
        (
            'CocoDataset',
            'a.json',
            r'val_evaluator\.1\.ann_file: .*b\.json does not exist; set it to the annotations of ',
        ),
        ('CocoDataset', 'c.json', r'val_dataloader\.dataset\.ann_file: .*c\.json does not exist'),
    ):
        dataset = dict(type=kind, data_root=str(tmp_path), ann_file=file)
        metrics = [dict(type='CocoMetric', ann_file=str(tmp_path / name)) for name in ('a.json', 'b.json')]
        cfg = Config(dict(val_dataloader=dict(dataset=dataset), val_evaluator=metrics))
        with pytest.raises(FileNotFoundError, match=words):
            check_files(cfg, ['val_dataloader'])
    check_files(Config(dict(cfg, val_evaluator=metrics[0])), ['train_dataloader'])
    # This package's data sets say themselves how to get their data.
    cfg.val_dataloader.dataset.type = 'ShapesDataset'
    check_files(cfg, ['val_dataloader'])


def run(code_or_tool, *arguments, **env):
    command = [sys.executable, *(['-c', code_or_tool] if '\n' in code_or_tool else [code_or_tool]), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **env})


def test_train_says_it_before_training(tmp_path):
    result = run(
        'tools/train.py',
        'configs/atss/atss_r50_fpn_brs_4xb4-1x_coco.py',
        '--work-dir',
        str(tmp_path),
        '--cfg-options',
        'model.bbox_head.loss_cls.type=BucketedRSLos',
    )
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert "did you mean 'BucketedRSLoss'" in result.stderr


def test_empty_data_sets_are_named(shapes_root, tmp_path):
    pytest.importorskip('efficientnet_lite_pytorch')
    empty = json.loads((shapes_root / 'annotations/train.json').read_text())
    file = tmp_path / 'empty.json'
    file.write_text(json.dumps({**empty, 'annotations': []}))
    options = ['--work-dir', str(tmp_path), '--cfg-options', f'train_dataloader.dataset.ann_file={file}']
    result = run('tools/train.py', str(SHAPES), *options, SHAPES_ROOT=str(shapes_root))
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert 'train_dataloader.dataset: ShapesDataset has no images: ' in result.stderr
    assert 'empty.json' in result.stderr and 'filter_cfg' in result.stderr


@pytest.mark.parametrize('tool', ['train', 'swap', 'convert', 'calibrate'])
def test_tools_without_mmdetection_say_what_to_install(tool):
    code = f"""
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == 'mmdet' else find(name, *a)
if '{tool}' == 'train':
    sys.argv = ['train.py', '--help']
    runpy.run_path('tools/train.py', run_name='__main__')
sys.argv = ['bucketed-losses', '{tool}', '--help']
runpy.run_module('bucketed_losses', run_name='__main__')
"""
    result = run(code)
    assert result.returncode == 2 and 'Traceback' not in result.stderr and result.stderr.count('\n') == 1
    assert 'needs mmdet. To get it, install an mmcv for your torch' in result.stderr
    for words in ('".[mmdet]"', '".[onedl]"', 'python -m bucketed_losses.doctor'):
        assert words in result.stderr
