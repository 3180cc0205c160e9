"""Checkpoints of the paper's repository: layers named by hand, as its heads define them, in our detectors."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import command, run_verb

pytest.importorskip('mmdet')

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine import safe_load
from bucketed_losses.mmdet.engine.published_checkpoints import convert_published

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {
    'atss': 'configs/atss/atss_r50_fpn_brs_4xb4-1x_coco.py',
    'paa': 'configs/paa/paa_r50_fpn_brs_4xb4-1x_coco.py',
    'faster': 'configs/faster_rcnn/faster-rcnn_r50_fpn_brs_4xb4-1x_coco.py',
    'mask': 'configs/mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco.py',
    'cascade': 'configs/cascade_rcnn/cascade-rcnn_r50_fpn_brs_4xb4-1x_coco.py',
}
SETTINGS = pytest.mark.parametrize('name', CONFIGS)


def layer(name, out, *inputs, bias=True):
    return {f'{name}.weight': (out, *inputs), **({f'{name}.bias': (out,)} if bias else {})}


def dense_head():
    """RankBasedATSSHead and RankBasedPAAHead there: two towers of four convolutions with group norm, no centerness."""
    shapes = {}
    for tower in ('cls_convs', 'reg_convs'):
        for i in range(4):
            shapes |= layer(f'bbox_head.{tower}.{i}.conv', 256, 256, 3, 3, bias=False)
            shapes |= layer(f'bbox_head.{tower}.{i}.gn', 256)
    shapes |= layer('bbox_head.atss_cls', 3 * 80, 256, 3, 3) | layer('bbox_head.atss_reg', 3 * 4, 256, 3, 3)
    return shapes | {f'bbox_head.scales.{i}.scale': () for i in range(5)}


def rpn():
    return (
        layer('rpn_head.rpn_conv', 256, 256, 3, 3)
        | layer('rpn_head.rpn_cls', 3, 256, 1, 1)
        | layer('rpn_head.rpn_reg', 3 * 4, 256, 1, 1)
    )


def box_head(name='roi_head.bbox_head', coordinates=4 * 80):
    """RankBasedShared2FCBBoxHead there: 80 classes and no background."""
    return (
        layer(f'{name}.shared_fcs.0', 1024, 256 * 49)
        | layer(f'{name}.shared_fcs.1', 1024, 1024)
        | layer(f'{name}.fc_cls', 80, 1024)
        | layer(f'{name}.fc_reg', coordinates, 1024)
    )


def mask_head():
    shapes = {}
    for i in range(4):
        shapes |= layer(f'roi_head.mask_head.convs.{i}.conv', 256, 256, 3, 3)
    return (
        shapes
        | {'roi_head.mask_head.upsample.weight': (256, 256, 2, 2), 'roi_head.mask_head.upsample.bias': (256,)}
        | layer('roi_head.mask_head.conv_logits', 80, 256, 1, 1)
    )


HEADS = {
    'atss': dense_head,
    'paa': dense_head,
    'faster': lambda: rpn() | box_head(),
    'mask': lambda: rpn() | box_head() | mask_head(),
    'cascade': lambda: rpn() | {k: v for i in range(3) for k, v in box_head(f'roi_head.bbox_head.{i}', 4).items()},
}


def build(name):
    cfg = Config.fromfile(ROOT / CONFIGS[name])
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    return MODELS.build(cfg.model)


def published(name, model, prefix=''):
    """A published checkpoint: backbone and neck as MMDetection names them, the head by hand."""
    generator = torch.Generator().manual_seed(0)
    body = {key: value for key, value in model.state_dict().items() if key.startswith(('backbone.', 'neck.'))}
    head = {key: torch.randn(shape, generator=generator) for key, shape in HEADS[name]().items()}
    return {prefix + key: value for key, value in {**body, **head}.items()}


@SETTINGS
def test_every_name_finds_its_place(name):
    model = build(name)
    source = published(name, model, prefix='module.' if name == 'atss' else '')
    conversion = convert_published(source, model.state_dict())
    assert conversion.complete, conversion.report()
    model.load_state_dict(conversion.state_dict, strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, source[('module.' if name == 'atss' else '') + key])


def test_the_dense_head_computes_what_its_layers_say():
    """The published head's arithmetic, written out: conv, group norm, ReLU; a class map and scaled deltas."""
    model = build('atss')
    source = published('atss', model)
    model.load_state_dict(convert_published(source, model.state_dict()).state_dict)
    x = torch.randn(1, 256, 6, 5)

    def tower(kind, out):
        y = x
        for i in range(4):
            p = f'bbox_head.{kind}.{i}'
            y = torch.nn.functional.conv2d(y, source[f'{p}.conv.weight'], padding=1)
            y = torch.nn.functional.group_norm(y, 32, source[f'{p}.gn.weight'], source[f'{p}.gn.bias']).relu()
        return torch.nn.functional.conv2d(y, source[f'{out}.weight'], source[f'{out}.bias'], padding=1)

    with torch.no_grad():
        (logits, *_), (deltas, *_) = model.bbox_head((x,) * 5)
    torch.testing.assert_close(logits, tower('cls_convs', 'bbox_head.atss_cls'), rtol=1e-3, atol=1e-2)
    wanted = tower('reg_convs', 'bbox_head.atss_reg') * source['bbox_head.scales.0.scale']
    torch.testing.assert_close(deltas, wanted, rtol=1e-3, atol=1e-2)


def test_what_only_looks_alike_is_refused():
    atss, faster = build('atss'), build('faster')
    state = published('atss', atss)
    with pytest.raises(ValueError, match=r'atss_centerness.*score-based'):
        convert_published({**state, 'bbox_head.atss_centerness.weight': torch.zeros(1)}, atss.state_dict())
    with pytest.raises(ValueError, match='convert co-detr'):
        convert_published({**state, 'query_head.transformer.level_embeds': torch.zeros(1)}, atss.state_dict())
    softmax = {**published('faster', faster), 'roi_head.bbox_head.fc_cls.weight': torch.zeros(81, 1024)}
    with pytest.raises(ValueError, match='81 rows for 80 classes, one for background'):
        convert_published(softmax, faster.state_dict())
    wrong = convert_published(state, faster.state_dict())
    assert not wrong.complete and wrong.missing and wrong.left_over


def test_the_tool(tmp_path):
    model = build('atss')
    source = {
        'meta': {'mmcv_version': '1.5.0', 'epoch': 12, 'CLASSES': ('a', 'b')},
        'state_dict': published('atss', model),
        'optimizer': {'state': {}, 'param_groups': []},
    }
    torch.save(source, tmp_path / 'published.pth')
    arguments = command('convert', 'published', CONFIGS['atss'], tmp_path / 'published.pth')
    result = subprocess.run([*arguments, '--out', tmp_path / 'ours.pth'], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert '0 missing, 0 left over, 0 of another shape' in result.stdout
    ours = safe_load(tmp_path / 'ours.pth')
    assert ours['meta'] == {'dataset_meta': {'classes': ('a', 'b')}}
    model.load_state_dict(ours['state_dict'], strict=True)


@pytest.mark.parametrize(
    ('meta', 'classes'),
    [
        (None, None),
        ({'dataset_meta': None}, None),
        ({'dataset_meta': {'CLASSES': ['a', 'b']}}, ('a', 'b')),
        ({'dataset_meta': {'classes': 'person'}}, ('person',)),
    ],
)
def test_the_classes_of_a_checkpoint(meta, classes, tmp_path):
    torch.save({'meta': meta, 'state_dict': published('atss', build('atss'))}, tmp_path / 'published.pth')
    out = tmp_path / 'ours.pth'
    run_verb('convert', 'published', ROOT / CONFIGS['atss'], tmp_path / 'published.pth', '--out', out)
    assert safe_load(out)['meta'] == ({} if classes is None else {'dataset_meta': {'classes': classes}})


def test_what_is_not_a_checkpoint_or_not_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': [1]}, 'list.pth')
    arguments = ['convert', 'published', ROOT / CONFIGS['atss'], 'list.pth', '--out']
    with pytest.raises(UserError, match=r'list\.pth: the file is not a checkpoint: its state_dict is a list'):
        run_verb(*arguments, 'ours.pth')
    for folder in ('.', tmp_path):
        with pytest.raises(UserError, match=f'^{re.escape(str(folder))} is a folder; give the name of a file'):
            run_verb(*arguments, folder, '--force')
