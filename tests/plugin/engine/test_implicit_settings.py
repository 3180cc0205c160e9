"""Settings that names and shapes of a checkpoint do not show: what is compared, mended and refused."""

from __future__ import annotations

import subprocess

import pytest
import torch
from command_line import command
from launching import ROOT

pytest.importorskip('mmdet')

from mmdet.registry import TASK_UTILS
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope

from bucketed_losses.mmdet.engine.implicit_settings import Coder, config_in_text, differences, recode, settings_of

ONES = Coder((0.0,) * 4, (1.0,) * 4)
OURS = Coder((0.0,) * 4, (0.1, 0.1, 0.2, 0.2))


def coder(settings):
    return dict(type='DeltaXYWHBBoxCoder', target_means=list(settings.means), target_stds=list(settings.stds))


def load(name):
    init_default_scope('mmdet')
    return Config.fromfile(ROOT / f'configs/{name}.py').model


# What the published BRS-DETR has, in the layout of MMDetection 2, as far as it is compared.
PUBLISHED_BRS_DETR = dict(
    type='CoDETR',
    backbone=dict(type='ResNet', out_indices=(1, 2, 3)),
    rpn_head=dict(
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=coder(ONES),
    ),
    query_head=dict(num_query=300, num_classes=80),
    roi_head=[
        dict(
            bbox_roi_extractor=dict(
                roi_layer=dict(type='RoIAlign', output_size=7), featmap_strides=[8, 16, 32, 64], finest_scale=112
            ),
            bbox_head=dict(num_classes=80, reg_class_agnostic=False, bbox_coder=coder(OURS)),
        )
    ],
    bbox_head=[
        dict(
            num_classes=80,
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=coder(OURS),
        )
    ],
)


@pytest.mark.parametrize('scope', ['mmdet', 'mmengine'])
def test_brs_detr_differs_from_the_published_in_the_coder_of_the_rpn_only(scope):
    model = load('brs_detr/brs-detr_r50_8xb2-12e_coco')
    with DefaultScope.overwrite_default_scope(scope):
        source, ours = settings_of(PUBLISHED_BRS_DETR), settings_of(model)
    assert set(source) <= set(ours), 'every published setting is compared'
    assert differences(source, ours) == {'rpn_head.bbox_coder': (ONES, OURS)}


@pytest.mark.parametrize(
    ('config', 'change', 'key'),
    [
        ('atss/atss_r50_fpn_brs_4xb4-1x_coco', ('bbox_head', 'anchor_generator', 'octave_base_scale', 8), 'anchor'),
        ('atss/atss_r50_fpn_brs_4xb4-1x_coco', ('bbox_head', 'bbox_coder', 'target_stds', [1.0] * 4), 'bbox_coder'),
        ('atss/atss_r50_fpn_brs_4xb4-1x_coco', ('bbox_head', 'num_classes', 20), 'bbox_head.num_classes'),
        (
            'faster_rcnn/faster-rcnn_r101-mdconv-c3-c5_fpn_brs_4xb4-ms-480-960-3x_coco',
            ('backbone', 'dcn', 'deform_groups', 1),
            'backbone.dcn',
        ),
        (
            'mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco',
            ('roi_head', 'mask_roi_extractor', 'featmap_strides', [8, 16, 32, 64]),
            'roi_head.mask_roi_extractor.featmap_strides',
        ),
        (
            'mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco',
            ('roi_head', 'bbox_roi_extractor', 'roi_layer', 'sampling_ratio', 2),
            'roi_head.bbox_roi_extractor.roi_layer',
        ),
        (
            'mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco',
            ('roi_head', 'bbox_roi_extractor', 'roi_layer', 'aligned', False),
            'roi_head.bbox_roi_extractor.roi_layer',
        ),
        ('atss/atss_r50_fpn_brs_4xb4-1x_coco', ('backbone', 'style', 'caffe'), 'backbone.style'),
        ('atss/atss_r50_fpn_brs_4xb4-1x_coco', ('neck', 'add_extra_convs', True), 'neck.add_extra_convs'),
        ('atss/atss_r50_fpn_brs_4xb4-1x_coco', ('data_preprocessor', 'std', [1.0] * 3), 'data_preprocessor'),
        ('atss/atss_r50_fpn_brs_4xb4-1x_coco', ('data_preprocessor', 'bgr_to_rgb', False), 'data_preprocessor'),
        ('brs_detr/brs-detr_r50_8xb2-12e_coco', ('positional_encoding', 'temperature', 20), 'positional_encoding'),
        ('brs_detr/brs-detr_r50_8xb2-12e_coco', ('num_queries', 900), 'num_queries'),
    ],
)
def test_each_setting_is_compared(config, change, key):
    ours, source = load(config), load(config)
    *path, last, value = change
    part = source
    for name in path:
        part = part[name]
    part[last] = value
    assert not differences(settings_of(ours), settings_of(load(config)))
    (difference,) = differences(settings_of(source), settings_of(ours))
    assert key in difference


def test_settings_that_are_written_in_another_way_are_equal():
    """Colours and positions of MMDetection 2 and 3, and what FPN and RoIAlign do where nothing is said."""
    ours = load('co_detr/co-deformable-detr_r50_8xb2-12e_coco')
    colours = ours.data_preprocessor
    published = dict(
        query_head=dict(positional_encoding=dict(type='SinePositionalEncoding', **ours.positional_encoding))
    )
    source = settings_of(published, dict(mean=colours.mean, std=tuple(colours.std), to_rgb=True))
    assert source and set(source) <= set(settings_of(ours)) and not differences(source, settings_of(ours))
    assert differences(settings_of(published, dict(mean=[0] * 3, std=[1] * 3)), settings_of(ours))

    def written(extra, **layer):
        layer = dict(type='RoIAlign', output_size=7, **layer)
        return settings_of(
            dict(neck=dict(add_extra_convs=extra), roi_head=dict(bbox_roi_extractor=dict(roi_layer=layer)))
        )

    assert written(True) == written('on_input', sampling_ratio=0, aligned=True) != written('on_output')


def test_anchors_are_compared_however_they_are_written():
    written = [
        dict(type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[8, 16]),
        dict(type='mmdet.AnchorGenerator', octave_base_scale=8, scales_per_octave=1, ratios=[1.0], strides=[8, 16]),
        dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[8, 16]),
    ]
    one, same, other = (settings_of(dict(rpn_head=dict(anchor_generator=anchors))) for anchors in written)
    assert one == same and one != other


@pytest.mark.parametrize(
    ('layer', 'shape'), [('rpn_head.rpn_reg', (3, 5, 1, 1)), ('roi_head.bbox_head.fc_reg', (7, 5))]
)
def test_recoded_weights_give_the_same_boxes(layer, shape):
    source = Coder((0.1, 0.0, -0.2, 0.3), (1.0, 0.9, 0.8, 0.7))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4 * shape[0], *shape[1:], generator=generator)
    state = {f'{layer}.weight': weight, f'{layer}.bias': 0.1 * torch.randn(len(weight), generator=generator)}
    x = 0.1 * torch.randn(1, 5, generator=generator)

    def decoded(settings):
        deltas = x @ state[f'{layer}.weight'].flatten(1).T + state[f'{layer}.bias']
        prior = torch.tensor([[10.0, 20.0, 40.0, 80.0]]).expand(shape[0], 4)
        return TASK_UTILS.build(coder(settings)).decode(prior, deltas.reshape(-1, 4))

    before, wrong = decoded(source), decoded(OURS)
    assert recode(state, layer.rpartition('.')[0], source, OURS)
    torch.testing.assert_close(decoded(OURS), before, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wrong, before, rtol=1e-2)


def test_a_head_whose_weights_cannot_make_up_for_it():
    state = {'bbox_head.atss_reg.weight': torch.ones(4, 1), 'bbox_head.atss_reg.bias': torch.ones(4)}
    assert not recode(state, 'bbox_head', Coder((0.1,) * 4, OURS.stds), OURS), 'means, before a factor per level'
    assert not recode({}, 'bbox_head', ONES, OURS)
    assert recode(state, 'bbox_head', ONES, OURS) and state['bbox_head.atss_reg.bias'].tolist() == [10, 10, 5, 5]


def test_the_text_of_a_config_is_read_and_not_executed():
    text = "import os\nx = [i for i in 'ab']\nmodel = dict(type='ATSS', a=dict(b=(1, -2.5), c=None), d=[dict(e=True)])"
    read = dict(model=dict(type='ATSS', a=dict(b=[1, -2.5], c=None), d=[dict(e=True)]))
    assert config_in_text(text) == read
    assert config_in_text(f'img_norm_cfg = dict(mean=[1], to_rgb=True)\n{text}') == read | dict(
        img_norm_cfg=dict(mean=[1], to_rgb=True)
    )
    for other in ("model = dict(a=__import__('os').getcwd())", 'model = (', 'x = 1', 'model = 3'):
        assert config_in_text(other) is None


ATSS = 'configs/atss/atss_r50_fpn_brs_4xb4-1x_coco.py'


@pytest.mark.parametrize('config', ['atss/atss_r50_fpn_brs_4xb4-1x_coco', 'co_dino/co-dino-5scale_r50_8xb2-12e_coco'])
def test_the_text_that_mmengine_writes_is_read(config):
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    assert settings_of(**config_in_text(cfg.pretty_text)) == settings_of(cfg.model)


@pytest.mark.medium
def test_the_tool_refuses_and_mends(tmp_path):
    """An ATSS checkpoint whose config is in it, as MMDetection 2 and MMEngine write it: other stds, other anchors."""
    from mmdet.registry import MODELS

    model = load('atss/atss_r50_fpn_brs_4xb4-1x_coco')
    model.backbone.init_cfg = None
    detector = MODELS.build(model)
    torch.nn.init.uniform_(detector.bbox_head.atss_reg.bias)
    state = detector.state_dict()
    anchors = "anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale={}, scales_per_octave=3, "
    anchors += 'strides=[8, 16, 32, 64, 128])'
    stds = "bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[1.0, 1.0, 1.0, 1.0])"
    results = []
    for scale, key in ((4, 'cfg'), (8, 'config')):
        text = f'model = dict(bbox_head=dict(num_classes=80, {anchors.format(scale)}, {stds}))'
        meta = {key: text, 'dataset_meta': {'classes': ['cat']}}
        torch.save({'meta': meta, 'state_dict': state}, tmp_path / 'source.pth')
        arguments = command('convert', 'published', ATSS, tmp_path / 'source.pth', '--out', tmp_path / f'{scale}.pth')
        results.append(subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True))
    assert results[0].returncode == 0, results[0].stderr
    assert 'the last layer of bbox_head is rescaled' in results[0].stdout
    written = torch.load(tmp_path / '4.pth', weights_only=True)
    assert written['meta'] == {'dataset_meta': {'classes': ('cat',)}}
    ours = written['state_dict']
    old, new = (part['bbox_head.atss_reg.bias'][:4] for part in (state, ours))
    torch.testing.assert_close(new, old * torch.tensor([10.0, 10.0, 5.0, 5.0]))
    assert results[1].returncode != 0 and not (tmp_path / '8.pth').exists()
    assert 'would run wrongly' in results[1].stderr and 'model.bbox_head.anchor_generator' in results[1].stderr
