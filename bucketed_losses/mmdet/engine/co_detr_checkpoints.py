"""Converts checkpoints of Co-Deformable-DETR and Co-DINO to the names of this package.

They come from the original repository (MMDetection 2) or, for Co-DINO, from ``projects/CO-DETR`` of MMDetection 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmdet.models.backbones.swin import swin_converter
from torch import Tensor

from .conversion import Conversion

# Pairs of an original name, as a regular expression, and our name. The first expression that matches the start of a
# name is used.
_RENAMES = [
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r'(backbone|neck|rpn_head)\.', r'\1.'),
        (r'roi_head\.(\d+)\.', r'roi_heads.\1.'),
        (r'bbox_head\.(\d+)\.', r'dense_heads.\1.'),
        (r'query_head\.(cls_branches|reg_branches)\.', r'bbox_head.\1.'),
        (r'query_head\.(query_embedding|downsample)\.', r'\1.'),
        (r'query_head\.transformer\.level_embeds$', 'level_embed'),
        (r'query_head\.transformer\.encoder\.layers\.(\d+)\.attentions\.0\.', r'encoder.layers.\1.self_attn.'),
        (r'query_head\.transformer\.decoder\.layers\.(\d+)\.attentions\.0\.', r'decoder.layers.\1.self_attn.'),
        (r'query_head\.transformer\.decoder\.layers\.(\d+)\.attentions\.1\.', r'decoder.layers.\1.cross_attn.'),
        (r'query_head\.transformer\.(encoder|decoder)\.layers\.(\d+)\.ffns\.0\.', r'\1.layers.\2.ffn.'),
        (r'query_head\.transformer\.(encoder|decoder)\.layers\.(\d+)\.norms\.', r'\1.layers.\2.norms.'),
        # Co-DINO. The position network is a sequence with ReLUs there, and numbers its linear layers 0 and 2.
        (r'query_head\.(dn_generator\.)?label_embedding\.', 'dn_query_generator.label_embedding.'),
        (r'query_head\.transformer\.query_embed\.', 'query_embedding.'),
        (r'query_head\.transformer\.decoder\.ref_point_head\.0\.', 'decoder.ref_point_head.layers.0.'),
        (r'query_head\.transformer\.decoder\.ref_point_head\.2\.', 'decoder.ref_point_head.layers.1.'),
        (r'query_head\.transformer\.decoder\.norm\.', 'decoder.norm.'),
        (r'query_head\.transformer\.enc_output\.', 'memory_trans_fc.'),
        (r'query_head\.transformer\.enc_output_norm\.', 'memory_trans_norm.'),
        (r'query_head\.transformer\.pos_trans\.', 'pos_trans_fc.'),
        (r'query_head\.transformer\.pos_trans_norm\.', 'pos_trans_norm.'),
        (r'query_head\.transformer\.reference_points\.', 'reference_points_fc.'),
        (r'query_head\.transformer\.aux_pos_trans\.', 'auxiliary_queries.pos_trans_fc.'),
        (r'query_head\.transformer\.aux_pos_trans_norm\.', 'auxiliary_queries.pos_trans_norm.'),
        (r'query_head\.transformer\.pos_feats_trans\.', 'auxiliary_queries.feature_trans_fc.'),
        (r'query_head\.transformer\.pos_feats_norm\.', 'auxiliary_queries.feature_trans_norm.'),
        (r'query_head\.transformer\.head_pos_embed\.', 'auxiliary_queries.head_embedding.'),
    )
]
_HEAD_EMBEDDING = 'auxiliary_queries.head_embedding.weight'
# Names that only Co-DINO has, in the checkpoint and here.
_CO_DINO = re.compile(r'query_head\.transformer\.decoder\.ref_point_head\.')
_OUR_CO_DINO = 'decoder.ref_point_head.layers.0.weight'


def convert_co_detr(source: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Conversion:
    """Rename a state dict of the original Co-Deformable-DETR or Co-DINO, of BRS-DETR's fork of it, or of MMDetection's
    ``projects/CO-DETR``.

    The original head embedding has one number per auxiliary head, which is broadcast over the channels; here it is
    repeated for each channel. MMDetection's ``swin_converter`` reorders the weights of Swin Transformers that have the
    names of their authors.

    Args:
        source: The checkpoint's ``state_dict``.
        model: ``state_dict()`` of the :class:`~bucketed_losses.mmdet.models.detectors.CoDETR` or
            :class:`~bucketed_losses.mmdet.models.detectors.CoDINO` to be loaded.

    Raises:
        ValueError: ``source`` already has the names of this package, is not a Co-DETR checkpoint, or is one of the
            other detector: Co-DINO for a model of Co-Deformable-DETR, or the reverse.
    """
    if 'memory_trans_fc.weight' in source:
        raise ValueError(
            "this checkpoint already has this package's names (memory_trans_fc.weight); load it without conversion"
        )
    if not any(name.startswith('query_head.transformer.') for name in source):
        raise ValueError(
            'this is not a Co-DETR checkpoint: no name begins with query_head.transformer; the names begin with '
            f'{sorted({name.split(".")[0] for name in source})}'
        )
    names = {True: 'Co-DINO', False: 'Co-Deformable-DETR'}
    is_dino, wants_dino = any(map(_CO_DINO.match, source)), _OUR_CO_DINO in model
    if is_dino != wants_dino:
        raise ValueError(
            f'this is a {names[is_dino]} checkpoint, and the config is of {names[wants_dino]}, whose decoder is '
            f'different; give a config with type={"CoDINO" if is_dino else "CoDETR"!r}'
        )
    conversion = Conversion()
    for name, value in source.items():
        ours, value = _converted(name, value)
        if ours == _HEAD_EMBEDDING and ours in model and value.shape == (model[ours].shape[0], 1):
            value = value.expand(model[ours].shape).clone()
        conversion.put(name, ours, value, model)
    return conversion.finish(model)


def _converted(name: str, value: Tensor) -> tuple[str | None, Tensor]:
    """Our name (None if there is none) and the value, reordered if it belongs to a Swin Transformer."""
    if re.match(r'backbone\.(layers\.\d+\.(blocks|downsample)|patch_embed\.proj)\.', name):  # a Swin Transformer
        return next(iter(swin_converter({name.removeprefix('backbone.'): value}).items()))
    for pattern, ours in _RENAMES:
        if pattern.match(name):
            return pattern.sub(ours, name, count=1), value
    return None, value
