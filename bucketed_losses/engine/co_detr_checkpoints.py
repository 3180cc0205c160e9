"""Co-Deformable-DETR checkpoints of the original repository (MMDetection 2) under the names of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmdet.models.backbones.swin import swin_converter
from torch import Tensor

# The original's name, as a regular expression, and ours. The first that matches from the start is taken.
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
# What only Co-DINO has: content queries in the transformer, denoising, a position network and a norm in the decoder.
_CO_DINO = re.compile(
    r'query_head\.(label_embedding|transformer\.query_embed|transformer\.decoder\.(ref_point_head|norm\.))'
)


@dataclass
class Conversion:
    """A converted state dict and the account of it.

    Attributes:
        state_dict: By this package's names; only entries that the model has, in its shapes.
        mapped: ``(original name, our name)`` of each of them.
        missing: Our names that the checkpoint gives nothing for.
        left_over: Original names that the model has no place for.
        misshaped: ``our name: what the checkpoint has, what the model has``, for each entry of another shape.
    """

    state_dict: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every entry of the checkpoint has found its place and every place its entry."""
        return not (self.missing or self.left_over or self.misshaped)

    def report(self) -> str:
        """Counts, then every name that is not simply mapped."""
        problems = {'missing': self.missing, 'left over': self.left_over, 'of another shape': self.misshaped}
        counts = ', '.join(f'{len(names)} {what}' for what, names in problems.items())
        lines = [f'{len(self.mapped)} mapped, {counts}']
        lines += [f'{what}: {name}' for what, names in problems.items() for name in names]
        return '\n'.join(lines)


def convert_co_detr(source: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Conversion:
    """Rename a state dict of the original Co-Deformable-DETR, or of BRS-DETR's fork of it.

    The original's head embedding is one number per auxiliary head, broadcast over the channels; it is repeated over
    them. Its Swin Transformers are reordered by MMDetection's own ``swin_converter``.

    Args:
        source: The checkpoint's ``state_dict``.
        model: ``state_dict()`` of the :class:`~bucketed_losses.models.detectors.CoDETR` to be loaded.

    Raises:
        ValueError: ``source`` is a Co-DINO, already of this package, or no Co-DETR at all.
    """
    if dino := sorted(name for name in source if _CO_DINO.match(name)):
        raise ValueError(
            f'this is a Co-DINO checkpoint ({dino[0]}), not a Co-Deformable-DETR; its decoder is another one, so it '
            "cannot be converted: MMDetection's projects/CO-DETR has that detector"
        )
    if 'memory_trans_fc.weight' in source:
        raise ValueError("this checkpoint has this package's names already (memory_trans_fc.weight); load it as it is")
    if not any(name.startswith('query_head.transformer.') for name in source):
        raise ValueError(
            'this is no Co-DETR checkpoint: no name begins with query_head.transformer; the names begin with '
            f'{sorted({name.split(".")[0] for name in source})}'
        )
    conversion, found = Conversion(), set()
    for name, value in source.items():
        ours, value = _converted(name, value)
        if ours is None or ours not in model:
            conversion.left_over.append(name)
            continue
        found.add(ours)
        shape = model[ours].shape
        if ours == _HEAD_EMBEDDING and value.shape == (shape[0], 1):
            value = value.expand(shape).clone()
        if value.shape != shape:
            conversion.misshaped.append(f'{ours}: {tuple(value.shape)}, the model has {tuple(shape)}')
            continue
        conversion.mapped.append((name, ours))
        conversion.state_dict[ours] = value
    conversion.missing = [name for name in model if name not in found]
    return conversion


def _converted(name: str, value: Tensor) -> tuple[str | None, Tensor]:
    """Our name, or None if there is none, and the value in our order."""
    if re.match(r'backbone\.(layers\.\d+\.(blocks|downsample)|patch_embed)\.', name):  # a Swin Transformer
        return next(iter(swin_converter({name.removeprefix('backbone.'): value}).items()))
    for pattern, ours in _RENAMES:
        if pattern.match(name):
            return pattern.sub(ours, name, count=1), value
    return None, value
