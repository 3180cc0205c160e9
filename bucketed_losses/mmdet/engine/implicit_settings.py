"""Settings that a checkpoint depends on and that its names and shapes do not show: box coders, anchors, and others.

A checkpoint that is loaded into a detector with other settings runs without an error, and wrongly. Compared are: of the
images, how their colours are normalised; of the backbone, its style, the stages that are used, dilations and deformable
convolutions; of the neck, its levels; of each head, numbers of classes and queries, box coder and anchors; of RoI
extractors, all that shapes do not show; and the encoding of positions. Thresholds and NMS are choices of the user.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmdet.registry import TASK_UTILS
from torch import Tensor

from .config import type_name

_REGRESSION_LAYERS = ('rpn_reg', 'atss_reg', 'retina_reg', 'fc_reg')
_OF_HEADS = ('num_classes', 'num_query', 'num_queries', 'reg_class_agnostic', 'class_agnostic')
_OF_BACKBONES = ('dcn', 'stage_with_dcn', 'out_indices', 'style', 'strides', 'dilations')
_OF_NECKS = ('start_level', 'num_outs', 'add_extra_convs', 'relu_before_extra_convs')
_DEFAULTS_OF_ROI_LAYERS = {'type': 'RoIAlign', 'output_size': None, 'sampling_ratio': 0, 'aligned': True}
_DEFAULTS_OF_POSITIONS = {'num_feats': None, 'temperature': 10000, 'normalize': False, 'offset': 0.0}


class Coder(NamedTuple):
    """Means and standard deviations of the box coder of a head: a delta d is decoded as ``d * std + mean``."""

    means: tuple[float, ...]
    stds: tuple[float, ...]


def settings_of(model: Mapping[str, Any], img_norm_cfg: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a detector's config, by their keys in a config of this package.

    Args:
        model: ``model`` of a config of MMDetection 3, or of a published repository, which is MMDetection 2.
        img_norm_cfg: How colours are normalised in a config of MMDetection 2; later it is a part of ``model``.
    """
    found: dict[str, Any] = {}
    colours = img_norm_cfg or model.get('data_preprocessor', {})
    if colours.get('mean') is not None:
        order = colours.get('to_rgb', True) if img_norm_cfg else colours.get('bgr_to_rgb', False)
        found['data_preprocessor'] = (*(tuple(map(float, colours[key])) for key in ('mean', 'std')), bool(order))
    for part, keys in (('backbone', _OF_BACKBONES), ('neck', _OF_NECKS)):
        settings = model.get(part, {})
        for key in keys if isinstance(settings, Mapping) else ():
            if settings.get(key) is not None:
                found[f'{part}.{key}'] = _plain(settings[key])
    if found.get('neck.add_extra_convs') is True:
        found['neck.add_extra_convs'] = 'on_input'  # as FPN reads it
    for positions in (model.get('positional_encoding'), model.get('query_head', {}).get('positional_encoding')):
        if positions is not None:
            found['positional_encoding'] = _with_defaults(positions, _DEFAULTS_OF_POSITIONS)
    for path, head in _heads(model):
        for key in _OF_HEADS:
            if key in head:
                found[f'{path}.{"num_queries" if key == "num_query" else key}'] = head[key]
        if 'bbox_coder' in head and 'target_stds' in head['bbox_coder']:
            coder = head['bbox_coder']
            found[f'{path}.bbox_coder'] = Coder(
                tuple(map(float, coder.get('target_means', [0.0] * 4))), tuple(map(float, coder['target_stds']))
            )
        if 'anchor_generator' in head:
            found[f'{path}.anchor_generator'] = _anchors(head['anchor_generator'])
    for path, extractor in _extractors(model):
        for key in ('featmap_strides', 'finest_scale'):
            if key in extractor:
                found[f'{path}.{key}'] = _plain(extractor[key])
        found[f'{path}.roi_layer'] = _with_defaults(extractor.get('roi_layer', {}), _DEFAULTS_OF_ROI_LAYERS)
    if 'num_queries' in model:
        found['num_queries'] = model['num_queries']
    if 'bbox_head.num_queries' in found:
        found['num_queries'] = found.pop('bbox_head.num_queries')
    return found


def differences(source: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of both that differ, by key: the value of the checkpoint's config and that of ours."""
    return {key: (source[key], ours[key]) for key in source if key in ours and source[key] != ours[key]}


def recode(state_dict: dict[str, Tensor], head: str, source: Coder, ours: Coder) -> bool:
    """Change the last layer of a head so that ``ours`` decodes its output to the boxes that ``source`` decodes.

    ``d * source.std + source.mean = d' * ours.std + ours.mean`` holds for all deltas d if the layer is linear.

    Args:
        state_dict: State dict of the detector; changed in place.
        head: The key of the head in it, for example ``rpn_head``.
        source: The coder that the weights were trained with.
        ours: The coder of the detector that loads them.

    Returns:
        Whether the head has such a layer, and means are equal where it is followed by a factor (ATSS).
    """
    for layer in _REGRESSION_LAYERS:
        name = f'{head}.{layer}'
        if f'{name}.weight' not in state_dict:
            continue
        if source.means != ours.means and layer == 'atss_reg':
            return False
        weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
        repeats = len(weight) // 4
        source_stds, our_stds = (weight.new_tensor(coder.stds).repeat(repeats) for coder in (source, ours))
        shift = weight.new_tensor([a - b for a, b in zip(source.means, ours.means, strict=True)]).repeat(repeats)
        factor = source_stds / our_stds
        state_dict[f'{name}.weight'] = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
        state_dict[f'{name}.bias'] = bias * factor + shift / our_stds
        return True
    return False


def _heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The heads and the keys that they have in a config, and in a state dict, of this package."""
    if 'query_head' in model:  # Co-DETR in MMDetection 2
        yield 'bbox_head', model['query_head']
        names = {'rpn_head': 'rpn_head', 'roi_head': 'roi_heads', 'bbox_head': 'dense_heads'}
    else:
        names = {key: key for key in ('rpn_head', 'roi_head', 'roi_heads', 'bbox_head', 'dense_heads')}
    several = 'query_head' in model or 'roi_heads' in model or 'dense_heads' in model
    for key, ours in names.items():
        numbered = several and ours in ('roi_heads', 'dense_heads')
        for path, part in _items(ours, model.get(key), numbered):
            if ours.startswith('roi_head'):
                for inner in ('bbox_head', 'mask_head'):
                    yield from _items(f'{path}.{inner}', part.get(inner), numbered=False)
            else:
                yield path, part


def _extractors(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    several = 'query_head' in model or 'roi_heads' in model
    key = 'roi_heads' if 'roi_heads' in model else 'roi_head'
    for path, part in _items('roi_heads' if several else 'roi_head', model.get(key), several):
        for inner in ('bbox_roi_extractor', 'mask_roi_extractor'):
            yield from _items(f'{path}.{inner}', part.get(inner), numbered=False)


def _items(path: str, part: Any, numbered: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dicts of a config that is a dict, a list of dicts or None; ``numbered`` also numbers a single dict."""
    if isinstance(part, Mapping):
        yield (f'{path}.0' if numbered else path), part
    elif isinstance(part, (list, tuple)):
        for index, item in enumerate(part):
            yield f'{path}.{index}', item


def _anchors(config: Mapping[str, Any]) -> Any:
    """The sizes of the anchors of each level and their strides, however the config writes them."""
    kind = type_name(config['type'])
    settings = {key: value for key, value in config.items() if key != '_scope_'}
    generator = TASK_UTILS.build(settings | {'type': f'mmdet.{kind}'})  # whatever the default scope is
    if not hasattr(generator, 'base_anchors'):  # points
        return _plain(config)
    sizes = [[tuple(round(x, 2) for x in anchor) for anchor in level.tolist()] for level in generator.base_anchors]
    return sizes, [tuple(stride) for stride in generator.strides]


def _plain(value: Any) -> Any:
    """A value whose comparison does not depend on whether it is a list or a tuple, or on the scope of a type."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if key != '_scope_'}
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def _with_defaults(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings named in ``defaults``, with these values where they are not given."""
    found = {key: _plain(settings.get(key, value)) for key, value in defaults.items()}
    return {key: value.rpartition('.')[2] if key == 'type' else value for key, value in found.items()}


def describe(value: Any) -> str:
    """A value for a message, cut to a line."""
    if isinstance(value, Coder):
        return f'means {list(value.means)}, stds {list(value.stds)}'
    text = str(value)
    return text if len(text) <= 100 else f'{text[:97]}...'


def config_in_text(text: str) -> dict[str, Any] | None:
    """``model`` and ``img_norm_cfg`` of a config that a checkpoint contains as text; None if they cannot be read.

    MMDetection 2 and MMEngine write the text. It is not executed: it may contain ``dict(...)``, lists, tuples, numbers,
    strings, True, False and None.
    """
    found = {}
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign):
                name = getattr(node.targets[0], 'id', None)
                if name in ('model', 'img_norm_cfg'):
                    found[name] = _literal(node.value)
    except (SyntaxError, ValueError):
        return None
    return found if isinstance(found.get('model'), dict) else None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict' and not node.args:
        return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
