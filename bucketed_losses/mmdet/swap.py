"""The ranking-loss version of any MMDetection config: heads, classifier, samplers, box loss, thresholds, learning rate.

Three ways to the same result::

    bucketed-losses swap CONFIG --loss brs --out OUT.py        # a file that inherits CONFIG
    swap_loss(Config.fromfile('my_config.py'), 'brs').cfg           # in Python
    __import__('bucketed_losses').swap_here(globals(), 'brs')       # the last line of a config
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict

from .models.pairing import INSTEAD
from .suggestions import nearest

LOSSES = {
    'brs': 'BucketedRSLoss',
    'rs': 'RSLoss',
    'bap': 'BucketedAPLoss',
    'ap': 'APLoss',
    'alrp': 'aLRPLoss',
    'dr': 'DRLoss',
}

_BOX_HEADS = ('BBoxHead', 'Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead', 'ConvFCBBoxHead')
_ROI_HEADS = {
    'StandardRoIHead': 'RankBasedRoIHead',
    'CascadeRoIHead': 'RankBasedCascadeRoIHead',
    'CoStandardRoIHead': 'RankBasedCoRoIHead',
}
_MASK_HEADS = {'FCNMaskHead': 'RankBasedFCNMaskHead'}
_DENSE_HEADS = tuple(name for name in INSTEAD if name not in (*_BOX_HEADS, 'RPNHead', 'DeformableDETRHead'))
_HEADS = ('rpn_head', 'bbox_head', 'roi_head', 'roi_heads', 'dense_heads')
# Losses of MMDetection's on decoded boxes; they stay.
_DECODED = ('IoULoss', 'GIoULoss', 'DIoULoss', 'CIoULoss', 'EIoULoss', 'SIoULoss')
_STDS = [0.1, 0.1, 0.2, 0.2]
_EVERY_ROI = dict(type='RandomSampler', num=1000000, pos_fraction=1.0, neg_pos_ub=-1)

Path = tuple[str | int, ...]


class _Absent(Enum):
    """No value: not even None."""

    ABSENT = 'not set'


ABSENT = _Absent.ABSENT


class SwapError(ValueError):
    """What stands in the way of a ranking loss in a config, in one sentence."""


class Change(NamedTuple):
    """One setting that differs.

    Attributes:
        path: Where, with dots.
        old: Its value before, ``ABSENT`` if there was none.
        new: Its value.
        reason: Why.
    """

    path: str
    old: Any
    new: Any
    reason: str

    def __str__(self) -> str:
        before = '' if self.old is ABSENT else f'- {self.path} = {self.old!r}\n'
        return f'{before}+ {self.path} = {self.new!r}\n      {self.reason}'


@dataclass
class Swap:
    """A config and how it came about.

    Attributes:
        cfg: The config with the ranking loss; the original is left as it was.
        changes: What was changed, in the order of the model.
        delta: The changes alone, nested, to be written below ``_base_ = ORIGINAL``.
        notes: What was left alone although a reader may wonder.
    """

    cfg: Config
    changes: list[Change]
    delta: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def diff(self) -> str:
        """The changes and the notes, to read."""
        return '\n'.join([*map(str, self.changes), *(f'  note: {note}' for note in self.notes)])


def swap_loss(cfg: Config | MutableMapping, loss: str = 'brs') -> Swap:
    """Put a ranking loss into a detector's config, by the settings of the paper.

    Args:
        cfg: An MMDetection config, as ``Config.fromfile`` reads it. It is not changed.
        loss: 'brs', 'rs', 'bap', 'ap', 'alrp' or 'dr'; or the name of a registered loss, e.g. 'BucketedRSLoss'.

    Returns:
        The new config, the list of changes and what a config that inherits ``cfg`` would have to say.

    Raises:
        SwapError: the detector cannot be trained with a ranking loss, or is already; or ``loss`` is not known.
    """
    name = LOSSES.get(loss, loss)
    if name not in LOSSES.values():
        raise SwapError(
            f'no loss is called {loss!r}; there are {", ".join(LOSSES)}{nearest(loss, [*LOSSES, *LOSSES.values()])}'
        )
    swapper = _Swapper(_plain(cfg), name)
    swapper.run()
    return Swap(Config(copy.deepcopy(swapper.cfg)), swapper.changes, swapper.delta(), swapper.notes)


def swap_here(variables: dict[str, Any], loss: str = 'brs') -> None:
    """In the last line of a config file: put a ranking loss into everything above it, bases included.

    MMEngine takes a config that imports anything for one of its lazy kind, hence the way it is called::

        __import__('bucketed_losses').swap_here(globals(), 'brs')

    Args:
        variables: ``globals()`` of the config.
        loss: As for :func:`swap_loss`.

    Raises:
        SwapError: as :func:`swap_loss`.
    """
    own = {key: value for key, value in variables.items() if not key.startswith('_')}
    bases = _plain(variables.get('_base_', {}))
    merged = Config(copy.deepcopy(bases))
    merged.merge_from_dict(_plain(own))
    for key, value in swap_loss(merged, loss).cfg.items():
        plain = _plain(value)
        # What is above it is part of the value already.
        replaces = isinstance(plain, dict) and isinstance(bases.get(key), dict)
        variables[key] = {'_delete_': True, **plain} if replaces else plain


class _Swapper:
    """Edits a plain dict and keeps account of it."""

    def __init__(self, cfg: dict[str, Any], loss: str) -> None:
        self.cfg = cfg
        self.original = copy.deepcopy(cfg)
        self.loss = loss
        self.balances = loss.endswith(('RSLoss', 'aLRPLoss'))
        self.changes: list[Change] = []
        self.notes: list[str] = []

    # Reading and writing

    def get(self, *path: str | int) -> Any:
        value: Any = self.cfg
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return ABSENT
        return value

    def set(self, path: Path, new: Any, reason: str) -> None:
        old = self.get(*path)
        if old is not ABSENT and old == new:
            return
        self.get(*path[:-1])[path[-1]] = copy.deepcopy(new)
        self.changes.append(Change('.'.join(map(str, path)), copy.deepcopy(old), new, reason))

    def delta(self) -> dict[str, Any]:
        """The nested dict that turns the original into the result when it inherits it."""
        return _difference(self.original, self.cfg)

    def each(self, *path: str | int) -> Iterator[Path]:
        """The paths of a part that may be one dict, several in a list, or not there."""
        part = self.get(*path)
        if isinstance(part, dict):
            yield path
        elif isinstance(part, list):
            yield from ((*path, index) for index in range(len(part)))

    # The detector

    def run(self) -> None:
        model = self.get('model')
        if not isinstance(model, dict) or 'type' not in model:
            raise SwapError('the config has no model with a type: it is no detector')
        self._refuse_if_ranked('model', model)
        heads = [key for key in _HEADS if model.get(key)]
        if not heads:
            others = [key for key in model if key.endswith(('_head', 'heads', 'detector'))] or ['none']
            raise SwapError(
                f'{_name(model["type"])} has no classification loss that could rank boxes: neither of '
                f'{", ".join(_HEADS)} is in its config (heads it has: {", ".join(others)})'
            )
        if _name(model['type']) == 'CoDETR':
            self._co_detr()
            two_stage = False
        elif 'roi_head' in heads:
            two_stage = True
            if 'rpn_head' in heads:
                self._proposals(('model', 'rpn_head'), ('model', 'train_cfg', 'rpn'))
            self._roi_head(('model', 'roi_head'), ('model', 'train_cfg', 'rcnn'))
            self._score_threshold(('model', 'test_cfg', 'rcnn', 'score_thr'))
        elif 'bbox_head' in heads:
            two_stage = False
            self._dense(('model', 'bbox_head'), ('model', 'train_cfg'))
        else:
            two_stage = True
            self._rpn(('model', 'rpn_head'), ('model', 'train_cfg', 'rpn'))
        self._learning_rate(two_stage)
        if self.loss == 'aLRPLoss' and self.get('train_cfg', 'max_iters') is not ABSENT:
            self.notes.append(
                'training is counted in iterations: give each aLRPLoss the renew_interval of its balance, the '
                'iterations that go once through the data'
            )
        self._imports()

    def _refuse_if_ranked(self, path: str, part: Any) -> None:
        if isinstance(part, dict):
            kind = _name(part.get('type', ''))
            if kind.startswith('RankBased') or kind in LOSSES.values():
                raise SwapError(
                    f'the config has a ranking loss already: {path}.type is {kind}; to change which one, set the type '
                    'of each loss_cls'
                )
        items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, value in items:
            self._refuse_if_ranked(f'{path}.{key}', value)

    def _dense(self, path: Path, train_cfg: Path, weight: float | None = None) -> None:
        if not isinstance(self.get(*path), dict):
            raise SwapError(f'{".".join(map(str, path))} is a list of heads; one head is ranked at a time')
        self._head_type(path, _DENSE_HEADS, INSTEAD)
        self._ranking_loss(path, weight)
        self._boxes(path, box_weight=2.0)
        if (sampler := self.get(*train_cfg, 'sampler')) is not ABSENT and _name(sampler['type']) != 'PseudoSampler':
            self.set((*train_cfg, 'sampler'), dict(type='PseudoSampler'), 'all anchors are ranked: nothing is sampled')
        if 'loss_centerness' in self.get(*path):
            self.notes.append(f'{".".join(map(str, path))}.loss_centerness is left in place and not used any more')
        if self.get(*path, 'anchor_generator', 'scales_per_octave') == 1 and self.get(*path, 'type').endswith(
            ('ATSSHead', 'PAAHead')
        ):
            self.notes.append(
                'the paper trains this head with three anchor scales, anchor_generator=dict(octave_base_scale=4, '
                'scales_per_octave=3); your anchors are left alone'
            )

    def _proposals(self, path: Path, train_cfg: Path) -> None:
        """The head that proposes: usually an RPN, but any dense head may."""
        if _name(self.get(*path, 'type')) in _DENSE_HEADS:
            self._dense(path, train_cfg)
        else:
            self._rpn(path, train_cfg)

    def _rpn(self, path: Path, train_cfg: Path, weight: float | None = None) -> None:
        self._head_type(path, ('RPNHead',), INSTEAD)
        self._ranking_loss(path, weight)
        self._boxes(path, box_weight=2.0)
        if self.get(*train_cfg) is not ABSENT:
            self.set((*train_cfg, 'sampler'), dict(type='PseudoSampler'), 'all anchors are ranked: nothing is sampled')
            border = self.get(*train_cfg, 'allowed_border')
            if border is not ABSENT and border >= 0:
                self.set((*train_cfg, 'allowed_border'), -1, 'all anchors are ranked, those across the border too')

    def _roi_head(self, path: Path, train_cfg: Path, weight: float | None = None) -> None:
        self._head_type(path, tuple(_ROI_HEADS), _ROI_HEADS)
        for head in self.each(*path, 'bbox_head'):
            self._head_type(head, _BOX_HEADS, INSTEAD)
            self._ranking_loss(head, weight)
            self._boxes(head, box_weight=10.0)
        for head in self.each(*path, 'mask_head'):
            self._head_type(head, tuple(_MASK_HEADS), _MASK_HEADS)
            if self.get(*path, 'mask_roi_extractor') in (ABSENT, None):
                reason = 'masks are trained on fewer RoIs than boxes, and so need an extractor of their own'
                self.set((*path, 'mask_roi_extractor'), self.get(*path, 'bbox_roi_extractor'), reason)
        for stage in self.each(*train_cfg):
            add = self.get(*stage, 'sampler', 'add_gt_as_proposals')
            sampler = dict(_EVERY_ROI, add_gt_as_proposals=True if add is ABSENT else add)
            self.set((*stage, 'sampler'), sampler, 'all proposals are ranked: nothing is sampled')
        weights = self.get(*path, 'stage_loss_weights')
        if self.balances and isinstance(weights, list) and any(w != 1 for w in weights):
            reason = "every stage's losses are balanced by themselves"
            self.set((*path, 'stage_loss_weights'), [1] * len(weights), reason)

    def _co_detr(self) -> None:
        """BRS-DETR of Co-Deformable-DETR, the published weights: 2 in the decoder, 5 in every auxiliary head."""
        train_cfg: Path = ('model', 'train_cfg')
        self._head_type(('model', 'bbox_head'), ('CoDeformDETRHead',), INSTEAD)
        self._ranking_loss(('model', 'bbox_head'), 2.0)
        for index, cost in enumerate(self.get(*train_cfg, 'assigner', 'match_costs') or ()):
            if _name(cost['type']) == 'FocalLossCost':
                path = (*train_cfg, 'assigner', 'match_costs', index, 'weight')
                self.set(path, 4.0, 'matching weighs classes as published for BRS-DETR')
        if self.get('model', 'rpn_head') not in (ABSENT, None):
            self._rpn(('model', 'rpn_head'), (*train_cfg, 'rpn'), 5.0)
        for head in self.each('model', 'roi_heads'):
            self._roi_head(head, (*train_cfg, 'rcnn'), 5.0)
        for head in self.each('model', 'dense_heads'):
            self._dense(head, (*train_cfg, 'dense'), 5.0)

    # What heads have in common

    def _head_type(self, path: Path, convertible: tuple[str, ...], instead: dict[str, str]) -> None:
        kind = _name(self.get(*path, 'type'))
        where = '.'.join(map(str, path))
        if kind not in convertible:
            loss = self.get(*path, 'loss_cls')
            softmax = kind == 'SSDHead' or (isinstance(loss, dict) and not loss.get('use_sigmoid', False))
            misspelt = nearest(kind, convertible) if MODELS.get(kind) is None else ''
            raise SwapError(
                f'{where} is a {kind}, which has no ranking form'
                + (' and scores by a softmax with background' if softmax and 'RoI' not in kind else '')
                + f'; heads that have one: {", ".join(sorted(convertible))}{misspelt}'
            )
        self.set((*path, 'type'), instead[kind], 'ranks all predictions of a batch, labelled by the IoU of their boxes')

    def _ranking_loss(self, path: Path, weight: float | None) -> None:
        loss = dict(type=self.loss) if weight is None else dict(type=self.loss, loss_weight=weight)
        reason = 'the ranking loss: one sigmoid per class, no background column'
        old = self.get(*path, 'loss_cls')
        if isinstance(old, dict) and not old.get('use_sigmoid', False):
            reason += '; it was a softmax'
        self.set((*path, 'loss_cls'), loss, reason)
        if isinstance(self.get(*path, 'init_cfg'), (dict, list)):
            self.set(
                (*path, 'init_cfg'), None, "the head's own: a prior probability in the bias would stay in all scores"
            )

    def _boxes(self, path: Path, box_weight: float) -> None:
        coder = self.get(*path, 'bbox_coder')
        coder = dict(type='DeltaXYWHBBoxCoder') if coder is ABSENT else coder
        codes_deltas = _name(coder.get('type', '')) == 'DeltaXYWHBBoxCoder'
        takes_coder = _name(self.get(*path, 'type')) not in (
            'RankBasedFCOSHead',
            'RankBasedGFLHead',
            'RankBasedRTMDetHead',
            'RankBasedRTMDetSepBNHead',
        )
        if takes_coder and codes_deltas and list(coder.get('target_stds', ())) != _STDS:
            if self.get(*path, 'bbox_coder') is ABSENT:
                coder = dict(coder, target_means=[0.0] * 4, clip_border=True)
                self.set((*path, 'bbox_coder'), dict(coder, target_stds=_STDS), 'the stds of the paper')
            else:
                self.set((*path, 'bbox_coder', 'target_stds'), _STDS, 'the stds of the paper')
        loss = self.get(*path, 'loss_bbox')
        kind = '' if loss is ABSENT else _name(loss['type'])
        if kind not in _DECODED and (loss is not ABSENT or takes_coder):
            new: dict[str, Any] = dict(type='GIoULoss')
            reason = 'on decoded boxes; it is balanced, so its weight would cancel'
            if not self.balances:
                new['loss_weight'] = box_weight
                reason = 'on decoded boxes; this loss does not balance it'
            self.set((*path, 'loss_bbox'), new, reason)
        if takes_coder and self.get(*path, 'reg_decoded_bbox') is False:
            self.set((*path, 'reg_decoded_bbox'), True, 'the labels are the IoUs of decoded boxes')

    # The rest of the config

    def _score_threshold(self, path: Path) -> None:
        if self.get(*path) is ABSENT:
            return
        lvis = any('LVIS' in str(value) for value in _values_of(self.cfg.get('train_dataloader', {}), 'type'))
        reason = 'as published; ranking scores are no probabilities: choose your own, or calibrate'
        self.set(path, 0.60 if lvis else 0.40, reason)

    def _learning_rate(self, two_stage: bool) -> None:
        optimizer = self.get('optim_wrapper', 'optimizer')
        if not isinstance(optimizer, dict) or 'lr' not in optimizer or _name(self.get('model', 'type')) == 'CoDETR':
            return
        if _name(optimizer.get('type', '')) != 'SGD':
            self.notes.append(f'the learning rate of {_name(optimizer.get("type", "?"))} is left alone')
            return
        paper, stock = (0.012, 0.02) if two_stage else (0.008, 0.01)
        lr = float(f'{optimizer["lr"] * paper / stock:.6g}')
        kind = 'R-CNN' if two_stage else 'one-stage'
        reason = f'the paper trains {kind} detectors at {paper} where MMDetection does at {stock}'
        self.set(('optim_wrapper', 'optimizer', 'lr'), lr, reason)

    def _imports(self) -> None:
        imports = self.get('custom_imports')
        own = dict(imports) if isinstance(imports, dict) else {}
        modules = own.get('imports', [])
        modules = [modules] if isinstance(modules, str) else list(modules)
        if 'bucketed_losses.mmdet' not in modules:
            reason = 'registers the losses and heads'
            self.set(('custom_imports',), {**own, 'imports': [*modules, 'bucketed_losses.mmdet']}, reason)


def _plain(value: Any) -> Any:
    """A config's value as plain dicts and lists, types as names; modules, functions and private keys left out."""
    if isinstance(value, Config):
        value = value._cfg_dict
    if isinstance(value, ConfigDict):
        value = value.to_dict() if hasattr(value, 'to_dict') else dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not callable(item) or isinstance(item, type)}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, type):
        return f'{value.__module__}.{value.__name__}'
    return copy.deepcopy(value)


def _name(kind: Any) -> str:
    """The name of a class in a config: a string, with a scope or a module before it, or the class."""
    return kind.__name__ if isinstance(kind, type) else str(kind).rsplit('.', 1)[-1].rsplit('::', 1)[-1]


def _values_of(part: Any, key: str) -> Iterator[Any]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == key:
                yield value
            yield from _values_of(value, key)
    elif isinstance(part, list):
        for value in part:
            yield from _values_of(value, key)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What a config that inherits ``old`` must say to become ``new``; a dict of another type replaces the old one."""
    delta: dict[str, Any] = {}
    for key, value in new.items():
        before = old.get(key, ABSENT)
        if before is not ABSENT and before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            loss_like = key.startswith(('loss', 'sampler'))
            gone = set(before) - set(value)
            delta[key] = {'_delete_': True, **value} if loss_like or gone else _difference(before, value)
        else:
            delta[key] = value
    return delta
