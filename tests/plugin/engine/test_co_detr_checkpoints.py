"""Checkpoints with the names of the original Co-Deformable-DETR and Co-DINO, made up here, find their places."""

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
from mmengine.runner import load_checkpoint

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine import safe_load
from bucketed_losses.mmdet.engine.co_detr_checkpoints import convert_co_detr

ROOT = Path(__file__).resolve().parents[3]
CONFIG = 'configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py'


def linear(name, out, inp):
    return {f'{name}.weight': (out, inp), f'{name}.bias': (out,)}


def norm(name, dims):
    return {f'{name}.weight': (dims,), f'{name}.bias': (dims,)}


def conv(name, out, inp, size):
    return {f'{name}.weight': (out, inp, size, size), f'{name}.bias': (out,)}


def batch_norm(name, dims):
    return norm(name, dims) | {
        f'{name}.running_mean': (dims,),
        f'{name}.running_var': (dims,),
        f'{name}.num_batches_tracked': (),
    }


def deformable_attention(name, levels=4):
    return (
        linear(f'{name}.sampling_offsets', 8 * levels * 4 * 2, 256)
        | linear(f'{name}.attention_weights', 8 * levels * 4, 256)
        | linear(f'{name}.value_proj', 256, 256)
        | linear(f'{name}.output_proj', 256, 256)
    )


def ffn(name):
    return linear(f'{name}.layers.0.0', 2048, 256) | linear(f'{name}.layers.1', 256, 2048)


def resnet50():
    shapes = {'backbone.conv1.weight': (64, 3, 7, 7)} | batch_norm('backbone.bn1', 64)
    inp = 64
    for stage, (blocks, mid) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f'backbone.layer{stage}.{block}'
            for i, (o, n, k) in enumerate(((mid, inp, 1), (mid, mid, 3), (4 * mid, mid, 1)), start=1):
                shapes |= {f'{name}.conv{i}.weight': (o, n, k, k)} | batch_norm(f'{name}.bn{i}', o)
            if block == 0:
                shapes |= {f'{name}.downsample.0.weight': (4 * mid, inp, 1, 1)}
                shapes |= batch_norm(f'{name}.downsample.1', 4 * mid)
            inp = 4 * mid
    return shapes


def swin(embed, depths, all_heads, window, outputs):
    shapes = conv('backbone.patch_embed.proj', embed, 3, 4) | norm('backbone.patch_embed.norm', embed)
    for stage, (depth, heads) in enumerate(zip(depths, all_heads, strict=True)):
        dims = embed * 2**stage
        for block in range(depth):
            name = f'backbone.layers.{stage}.blocks.{block}'
            shapes |= norm(f'{name}.norm1', dims) | norm(f'{name}.norm2', dims)
            shapes |= linear(f'{name}.attn.qkv', 3 * dims, dims) | linear(f'{name}.attn.proj', dims, dims)
            shapes |= {
                f'{name}.attn.relative_position_bias_table': ((2 * window - 1) ** 2, heads),
                f'{name}.attn.relative_position_index': (window**2, window**2),
            }
            shapes |= linear(f'{name}.mlp.fc1', 4 * dims, dims) | linear(f'{name}.mlp.fc2', dims, 4 * dims)
        if stage < 3:
            shapes |= {f'backbone.layers.{stage}.downsample.reduction.weight': (2 * dims, 4 * dims)}
            shapes |= norm(f'backbone.layers.{stage}.downsample.norm', 4 * dims)
        if stage in outputs:
            shapes |= norm(f'backbone.norm{stage}', dims)
    return shapes


def swin_tiny():
    return swin(96, (2, 2, 6, 2), (3, 6, 12, 24), window=7, outputs=(1, 2, 3))


def swin_large():
    return swin(192, (2, 2, 18, 2), (6, 12, 24, 48), window=12, outputs=(0, 1, 2, 3))


def original_shapes(backbone, channels, num_query=300):
    """Names and shapes of the original repository (MMDetection 2.25)."""
    shapes = dict(backbone)
    for i, inp in enumerate(channels):
        shapes |= {f'neck.convs.{i}.conv.weight': (256, inp, 1, 1)} | norm(f'neck.convs.{i}.gn', 256)
    shapes |= {'neck.extra_convs.0.conv.weight': (256, channels[-1], 3, 3)} | norm('neck.extra_convs.0.gn', 256)
    shapes |= conv('rpn_head.rpn_conv', 256, 256, 3)
    shapes |= conv('rpn_head.rpn_cls', 9, 256, 1) | conv('rpn_head.rpn_reg', 36, 256, 1)
    shapes |= linear('roi_head.0.bbox_head.shared_fcs.0', 1024, 256 * 49)
    shapes |= linear('roi_head.0.bbox_head.shared_fcs.1', 1024, 1024)
    shapes |= linear('roi_head.0.bbox_head.fc_cls', 81, 1024) | linear('roi_head.0.bbox_head.fc_reg', 320, 1024)
    for branch in ('cls', 'reg'):
        name = f'bbox_head.0.{branch}_convs.0'
        shapes |= {f'{name}.conv.weight': (256, 256, 3, 3)} | norm(f'{name}.gn', 256)
    for branch, out in (('cls', 80), ('reg', 4), ('centerness', 1)):
        shapes |= conv(f'bbox_head.0.atss_{branch}', out, 256, 3)
    shapes |= {f'bbox_head.0.scales.{level}.scale': () for level in range(5)}

    for branch in range(7):
        shapes |= linear(f'query_head.cls_branches.{branch}', 80, 256)
        for layer, out in ((0, 256), (2, 256), (4, 4)):
            shapes |= linear(f'query_head.reg_branches.{branch}.{layer}', out, 256)
    shapes |= {'query_head.query_embedding.weight': (num_query, 256)}
    shapes |= conv('query_head.downsample.0', 256, 256, 3) | norm('query_head.downsample.1', 256)
    transformer = 'query_head.transformer'
    shapes |= {f'{transformer}.level_embeds': (4, 256)}
    for layer in range(6):
        name = f'{transformer}.encoder.layers.{layer}'
        shapes |= deformable_attention(f'{name}.attentions.0') | ffn(f'{name}.ffns.0')
        shapes |= norm(f'{name}.norms.0', 256) | norm(f'{name}.norms.1', 256)
        name = f'{transformer}.decoder.layers.{layer}'
        shapes |= {f'{name}.attentions.0.attn.in_proj_weight': (768, 256)}
        shapes |= {f'{name}.attentions.0.attn.in_proj_bias': (768,)}
        shapes |= linear(f'{name}.attentions.0.attn.out_proj', 256, 256)
        shapes |= deformable_attention(f'{name}.attentions.1') | ffn(f'{name}.ffns.0')
        for i in range(3):
            shapes |= norm(f'{name}.norms.{i}', 256)
    shapes |= linear(f'{transformer}.enc_output', 256, 256) | norm(f'{transformer}.enc_output_norm', 256)
    shapes |= linear(f'{transformer}.pos_trans', 512, 512) | norm(f'{transformer}.pos_trans_norm', 512)
    for head in range(2):
        shapes |= linear(f'{transformer}.aux_pos_trans.{head}', 512, 512)
        shapes |= norm(f'{transformer}.aux_pos_trans_norm.{head}', 512)
        shapes |= linear(f'{transformer}.pos_feats_trans.{head}', 256, 256)
        shapes |= norm(f'{transformer}.pos_feats_norm.{head}', 256)
    return shapes | {f'{transformer}.head_pos_embed.weight': (2, 1)}


def co_dino_shapes(backbone, channels, label_embedding, num_classes=80):
    """Names and shapes of Co-DINO: what differs from Co-Deformable-DETR.

    Five levels, whose coarsest map of an auxiliary head is the sixth; no mixed selection from proposals; auxiliary
    queries without features, positions and head embedding.
    """
    shapes, transformer = original_shapes(backbone, channels), 'query_head.transformer'
    gone = ('pos_trans', 'pos_trans_norm', 'pos_feats_trans', 'pos_feats_norm', 'head_pos_embed')
    gone = (*(f'{transformer}.{name}.' for name in gone), 'query_head.query_embedding.')
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith(gone)}
    shapes |= {f'{transformer}.level_embeds': (5, 256), f'{transformer}.query_embed.weight': (900, 256)}
    shapes |= {'bbox_head.0.scales.5.scale': ()}
    shapes |= linear(f'{transformer}.decoder.ref_point_head.0', 256, 512)
    shapes |= linear(f'{transformer}.decoder.ref_point_head.2', 256, 256) | norm(f'{transformer}.decoder.norm', 256)
    for layer in range(6):
        shapes |= deformable_attention(f'{transformer}.encoder.layers.{layer}.attentions.0', 5)
        shapes |= deformable_attention(f'{transformer}.decoder.layers.{layer}.attentions.1', 5)
    for head in range(2):
        shapes |= linear(f'{transformer}.aux_pos_trans.{head}', 256, 512)
        shapes |= norm(f'{transformer}.aux_pos_trans_norm.{head}', 256)
    shapes |= {label_embedding: (num_classes, 256)}
    shapes |= conv('bbox_head.0.atss_cls', num_classes, 256, 3)
    shapes |= linear('roi_head.0.bbox_head.fc_cls', num_classes + 1, 1024)
    shapes |= linear('roi_head.0.bbox_head.fc_reg', 4 * num_classes, 1024)
    for branch in range(7):
        shapes |= linear(f'query_head.cls_branches.{branch}', num_classes, 256)
    return shapes


def fill(shapes):
    """A checkpoint whose every tensor is another constant, and that constant by name."""
    constants = {name: float(i) for i, name in enumerate(shapes)}
    return {name: torch.tensor(constants[name]).expand(shape) for name, shape in shapes.items()}, constants


def model_state(config, num_classes=80):
    cfg = Config.fromfile(ROOT / config)
    model = cfg.model
    for head in (model.bbox_head, model.roi_heads.bbox_head, model.dense_heads):
        head.num_classes = num_classes
    init_default_scope('mmdet')
    return MODELS.build(model).state_dict()


@pytest.fixture(scope='module')
def r50():
    return original_shapes(resnet50(), (512, 1024, 2048))


@pytest.fixture(scope='module')
def state():
    return model_state(CONFIG)


ENCODER, DECODER = (f'query_head.transformer.{stack}.layers' for stack in ('encoder', 'decoder'))
PLACES = {
    'backbone.layer3.5.bn2.running_var': 'backbone.layer3.5.bn2.running_var',
    'neck.extra_convs.0.gn.bias': 'neck.extra_convs.0.gn.bias',
    'rpn_head.rpn_reg.weight': 'rpn_head.rpn_reg.weight',
    'roi_head.0.bbox_head.shared_fcs.1.bias': 'roi_heads.0.bbox_head.shared_fcs.1.bias',
    'bbox_head.0.atss_centerness.bias': 'dense_heads.0.atss_centerness.bias',
    'bbox_head.0.scales.3.scale': 'dense_heads.0.scales.3.scale',
    'query_head.cls_branches.6.weight': 'bbox_head.cls_branches.6.weight',
    'query_head.reg_branches.2.4.bias': 'bbox_head.reg_branches.2.4.bias',
    'query_head.query_embedding.weight': 'query_embedding.weight',
    'query_head.downsample.1.weight': 'downsample.1.weight',
    'query_head.transformer.level_embeds': 'level_embed',
    f'{ENCODER}.4.attentions.0.value_proj.weight': 'encoder.layers.4.self_attn.value_proj.weight',
    f'{ENCODER}.0.ffns.0.layers.1.bias': 'encoder.layers.0.ffn.layers.1.bias',
    f'{ENCODER}.5.norms.1.bias': 'encoder.layers.5.norms.1.bias',
    f'{DECODER}.1.attentions.0.attn.in_proj_weight': 'decoder.layers.1.self_attn.attn.in_proj_weight',
    f'{DECODER}.1.attentions.1.output_proj.bias': 'decoder.layers.1.cross_attn.output_proj.bias',
    f'{DECODER}.3.ffns.0.layers.0.0.weight': 'decoder.layers.3.ffn.layers.0.0.weight',
    f'{DECODER}.0.norms.2.weight': 'decoder.layers.0.norms.2.weight',
    'query_head.transformer.enc_output.weight': 'memory_trans_fc.weight',
    'query_head.transformer.enc_output_norm.bias': 'memory_trans_norm.bias',
    'query_head.transformer.pos_trans.bias': 'pos_trans_fc.bias',
    'query_head.transformer.pos_trans_norm.weight': 'pos_trans_norm.weight',
    'query_head.transformer.aux_pos_trans.1.weight': 'auxiliary_queries.pos_trans_fc.1.weight',
    'query_head.transformer.aux_pos_trans_norm.0.bias': 'auxiliary_queries.pos_trans_norm.0.bias',
    'query_head.transformer.pos_feats_trans.0.bias': 'auxiliary_queries.feature_trans_fc.0.bias',
    'query_head.transformer.pos_feats_norm.1.weight': 'auxiliary_queries.feature_trans_norm.1.weight',
    'query_head.transformer.head_pos_embed.weight': 'auxiliary_queries.head_embedding.weight',
}


def test_every_entry_finds_its_place(r50, state):
    source, constants = fill(r50)
    conversion = convert_co_detr(source, state)
    assert conversion.complete, conversion.report()
    assert {name: tuple(value.shape) for name, value in conversion.state_dict.items()} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    assert len(conversion.mapped) == len(source) == len(set(dict(conversion.mapped).values()))
    for theirs, ours in PLACES.items():
        assert (conversion.state_dict[ours] == constants[theirs]).all(), theirs
        assert dict(conversion.mapped)[theirs] == ours
    assert conversion.report() == f'{len(state)} mapped, 0 missing, 0 left over, 0 of another shape'


def test_the_head_embedding_is_repeated_over_the_channels(r50, state):
    source, _ = fill(r50)
    source['query_head.transformer.head_pos_embed.weight'] = torch.tensor([[0.5], [-2.0]])
    embedding = convert_co_detr(source, state).state_dict['auxiliary_queries.head_embedding.weight']
    assert torch.equal(embedding, torch.tensor([0.5, -2.0])[:, None].expand(2, 256))
    source['query_head.transformer.head_pos_embed.weight'] = mended = torch.randn(2, 256)  # forks that repaired it
    assert torch.equal(convert_co_detr(source, state).state_dict['auxiliary_queries.head_embedding.weight'], mended)


def test_swin_transformers():
    state = model_state('configs/co_detr/co-deformable-detr_swin-t_8xb2-12e_coco.py')
    source, constants = fill(original_shapes(swin_tiny(), (192, 384, 768)))
    weight = torch.randn(192, 384)
    source['backbone.layers.0.downsample.reduction.weight'] = weight
    conversion = convert_co_detr(source, state)
    assert conversion.complete, conversion.report()
    for theirs, ours in {
        'layers.2.blocks.5.attn.qkv.bias': 'stages.2.blocks.5.attn.w_msa.qkv.bias',
        'layers.1.blocks.0.mlp.fc1.weight': 'stages.1.blocks.0.ffn.layers.0.0.weight',
        'patch_embed.proj.bias': 'patch_embed.projection.bias',
        'norm2.weight': 'norm2.weight',
    }.items():
        assert (conversion.state_dict[f'backbone.{ours}'] == constants[f'backbone.{theirs}']).all(), theirs
    # The four neighbours that are merged: column by column there, row by row in PyTorch's unfold.
    merged = conversion.state_dict['backbone.stages.0.downsample.reduction.weight'].reshape(192, 96, 4)
    by_column = weight.reshape(192, 4, 96)
    assert torch.equal(merged, torch.stack([by_column[:, i] for i in (0, 2, 1, 3)], dim=2))


def test_what_does_not_fit_is_named(r50, state):
    source, _ = fill(r50)
    del source['query_head.transformer.enc_output_norm.bias']
    source['roi_head.0.mask_head.conv_logits.weight'] = torch.zeros(80, 256, 1, 1)
    source['query_head.query_embedding.weight'] = torch.zeros(900, 256)
    conversion = convert_co_detr(source, state)
    assert conversion.missing == ['memory_trans_norm.bias']
    assert conversion.left_over == ['roi_head.0.mask_head.conv_logits.weight']
    assert conversion.misshaped == ['query_embedding.weight: (900, 256), the model has (300, 256)']
    assert not conversion.complete and len(conversion.state_dict) == len(state) - 2
    assert conversion.report().splitlines() == [
        f'{len(state) - 2} mapped, 1 missing, 1 left over, 1 of another shape',
        'missing: memory_trans_norm.bias',
        'left over: roi_head.0.mask_head.conv_logits.weight',
        'of another shape: query_embedding.weight: (900, 256), the model has (300, 256)',
    ]


CO_DINO = 'configs/co_dino/co-dino-5scale_r50_8xb2-12e_coco.py'
SWIN_L = 'configs/co_dino/co-dino-5scale_swin-l_16xb1-12e_coco.py'
SWIN_L_CHANNELS = (192, 384, 768, 1536)
LABELS = {'original': 'query_head.label_embedding.weight', 'mmdet': 'query_head.dn_generator.label_embedding.weight'}
CO_DINO_PLACES = {
    'query_head.transformer.query_embed.weight': 'query_embedding.weight',
    'query_head.transformer.decoder.ref_point_head.0.weight': 'decoder.ref_point_head.layers.0.weight',
    'query_head.transformer.decoder.ref_point_head.2.bias': 'decoder.ref_point_head.layers.1.bias',
    'query_head.transformer.decoder.norm.weight': 'decoder.norm.weight',
    f'{DECODER}.3.norms.1.weight': 'decoder.layers.3.norms.1.weight',
    'query_head.transformer.aux_pos_trans.1.weight': 'auxiliary_queries.pos_trans_fc.1.weight',
    'query_head.transformer.aux_pos_trans_norm.0.bias': 'auxiliary_queries.pos_trans_norm.0.bias',
    'bbox_head.0.scales.5.scale': 'dense_heads.0.scales.5.scale',
}


def test_co_dino_of_the_original_and_of_mmdetection(state):
    co_dino = model_state(CO_DINO)
    for label_embedding in LABELS.values():
        source, constants = fill(co_dino_shapes(resnet50(), (256, 512, 1024, 2048), label_embedding))
        conversion = convert_co_detr(source, co_dino)
        assert conversion.complete, conversion.report()
        assert len(conversion.mapped) == len(source) == len(set(dict(conversion.mapped).values()))
        for theirs, ours in {label_embedding: 'dn_query_generator.label_embedding.weight', **CO_DINO_PLACES}.items():
            assert dict(conversion.mapped)[theirs] == ours
            assert (conversion.state_dict[ours] == constants[theirs]).all()
    source['query_head.transformer.decoder.unknown'] = torch.zeros(1)
    assert convert_co_detr(source, co_dino).left_over == ['query_head.transformer.decoder.unknown']
    with pytest.raises(ValueError, match=r"the config is of Co-Deformable-DETR.*type='CoDINO'"):
        convert_co_detr(source, state)
    with pytest.raises(ValueError, match=r"a Co-Deformable-DETR checkpoint.*type='CoDETR'"):
        convert_co_detr(fill(original_shapes(resnet50(), (512, 1024, 2048)))[0], co_dino)


OF_CLASSES = [
    'bbox_head.cls_branches.3.weight',
    'dense_heads.0.atss_cls.bias',
    'dn_query_generator.label_embedding.weight',
    'roi_heads.0.bbox_head.fc_cls.weight',
    'roi_heads.0.bbox_head.fc_reg.bias',
]


@pytest.mark.parametrize('num_classes', [80, 365])
def test_co_dino_with_swin_l(num_classes):
    """The published checkpoints of COCO, and of Objects365 with its 365 classes."""
    source, constants = fill(co_dino_shapes(swin_large(), SWIN_L_CHANNELS, LABELS['original'], num_classes))
    state = model_state(SWIN_L, num_classes)
    conversion = convert_co_detr(source, state)
    assert conversion.complete, conversion.report()
    assert len(conversion.mapped) == len(source) == len(set(dict(conversion.mapped).values()))
    assert all(conversion.state_dict[name].shape == state[name].shape for name in state)
    for theirs, ours in {
        'layers.2.blocks.17.attn.proj.weight': 'stages.2.blocks.17.attn.w_msa.proj.weight',
        'norm0.bias': 'norm0.bias',
    }.items():
        assert (conversion.state_dict[f'backbone.{ours}'] == constants[f'backbone.{theirs}']).all(), theirs


def test_a_checkpoint_of_objects365_for_coco():
    """What starts anew is what the config says, and no more."""
    source, _ = fill(co_dino_shapes(swin_large(), SWIN_L_CHANNELS, LABELS['original'], 365))
    conversion = convert_co_detr(source, model_state(SWIN_L.replace('12e_coco', '16e_o365-coco')))
    names = {line.partition(':')[0] for line in conversion.misshaped}
    assert names == {name for name in names if re.search('cls_branches|atss_cls|fc_cls|fc_reg|label_embedding', name)}
    assert names >= set(OF_CLASSES) and len(names) == 2 * 7 + 1 + 2 * 3
    assert not conversion.missing and not conversion.left_over


def test_a_swin_transformer_with_mmdetections_names_is_left_as_it_is():
    """projects/CO-DETR has MMDetection's own Swin Transformer."""
    names = ('backbone.patch_embed.projection.weight', 'backbone.stages.2.blocks.5.attn.w_msa.qkv.bias')
    source = {name: torch.randn(3) for name in names}
    decoder = {'query_head.transformer.decoder.ref_point_head.0.weight': torch.zeros(1)}
    conversion = convert_co_detr(source | decoder, source | {'decoder.ref_point_head.layers.0.weight': torch.ones(1)})
    assert conversion.complete and all(torch.equal(conversion.state_dict[name], source[name]) for name in names)


def test_a_brs_detr_checkpoint_has_no_centerness(r50):
    state = model_state('configs/brs_detr/brs-detr_r50_8xb2-12e_coco.py')
    shapes = {name: shape for name, shape in r50.items() if 'centerness' not in name}
    shapes |= linear('roi_head.0.bbox_head.fc_cls', 80, 1024)
    assert convert_co_detr(fill(shapes)[0], state).complete
    assert not convert_co_detr(fill(r50)[0], state).complete


def test_a_brs_co_dino_checkpoint_has_no_centerness():
    state = model_state(CO_DINO.replace('r50', 'r50_brs'))
    stock = co_dino_shapes(resnet50(), (256, 512, 1024, 2048), LABELS['original'])
    shapes = {name: shape for name, shape in stock.items() if 'centerness' not in name}
    shapes |= linear('roi_head.0.bbox_head.fc_cls', 80, 1024)
    assert convert_co_detr(fill(shapes)[0], state).complete
    assert not convert_co_detr(fill(stock)[0], state).complete


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (
            ['query_head.transformer.decoder.ref_point_head.0.weight'],
            "a Co-DINO checkpoint, and the config is of Co-Deformable-DETR.*type='CoDINO'",
        ),
        (['backbone.conv1.weight', 'bbox_head.atss_cls.weight'], r"not a Co-DETR.*\['backbone', 'bbox_head'\]"),
        (['memory_trans_fc.weight'], 'already has this package'),
    ],
)
def test_other_checkpoints_are_refused(names, words, state):
    source = {'query_head.transformer.level_embeds': torch.zeros(4, 256)} if 'query' in names[0] else {}
    with pytest.raises(ValueError, match=words):
        convert_co_detr(source | {name: torch.zeros(1) for name in names}, state)


def convert(source, out, *args):
    return 'convert', 'co-detr', ROOT / CONFIG, source, '--out', out, *args


def test_the_tool(r50, tmp_path, capsys):
    source, _ = fill(r50)
    theirs, ours, partial = (tmp_path / f'{name}.pth' for name in ('theirs', 'ours', 'partial'))
    torch.save({'state_dict': source, 'meta': {'CLASSES': ('cat', 'dog'), 'epoch': 12}, 'optimizer': {}}, theirs)
    run = subprocess.run(command(*convert(theirs, ours)), cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert '0 missing, 0 left over, 0 of another shape' in run.stdout
    cfg = Config.fromfile(ROOT / CONFIG)
    init_default_scope('mmdet')
    detector = MODELS.build(cfg.model)
    checkpoint = load_checkpoint(detector, str(ours), map_location='cpu', strict=True)
    assert checkpoint['meta']['dataset_meta'] == {'classes': ('cat', 'dog')}
    with pytest.raises(UserError, match='exists already'):
        run_verb(*convert(theirs, ours))

    del source['query_head.transformer.level_embeds']
    torch.save(source, theirs)  # a bare state dict
    with pytest.raises(UserError, match='no file was written'):
        run_verb(*convert(theirs, partial))
    assert 'missing: level_embed' in capsys.readouterr().out and not partial.exists()
    run_verb(*convert(theirs, partial, '--partial'))
    assert 'level_embed' not in safe_load(partial)['state_dict']
    (tmp_path / 'broken.pth').write_bytes(b'no checkpoint')
    with pytest.raises(UserError, match='cannot be loaded safely'):
        run_verb(*convert(tmp_path / 'broken.pth', tmp_path / 'x.pth'))
