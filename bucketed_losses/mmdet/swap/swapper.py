"""Applies the recipes of the heads in a detector's config, and the changes that concern the whole detector."""

from __future__ import annotations

import copy
import inspect
import re
import types
from collections.abc import MutableMapping
from typing import Any

from mmdet.models.dense_heads import AnchorHead
from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject

from ..engine.config import functions_in, imported_modules, type_name
from ..engine.config_checks import import_custom_modules
from ..models.losses import RankingLoss
from ..models.recipes import (
    MMDET_SCOPE,
    Inner,
    Layout,
    LearningRate,
    Note,
    Part,
    Path,
    Recipe,
    Refusal,
    Role,
    Setting,
    Slot,
    is_ranking_head,
    layout_of,
    layouts,
    no_ranking_form_of,
    recipe_of,
    recipes,
    registered_class,
)
from ..models.rules import each
from ..suggestions import nearest
from .changes import ABSENT, EditedConfig, Swap, SwapError, dotted, plain, values_of

LOSSES = {
    'brs': 'BucketedRSLoss',
    'rs': 'RSLoss',
    'bap': 'BucketedAPLoss',
    'ap': 'APLoss',
    'alrp': 'aLRPLoss',
    'dr': 'DRLoss',
}

# The keys under which MMDetection's detectors hold their heads.
_R_CNN = LearningRate('R-CNN', paper=0.012, stock=0.02)
_RPN = Layout((Slot('rpn_head', (Role.PROPOSALS,), ('rpn',)),), _R_CNN)
_ONE_STAGE = Layout(
    (Slot('bbox_head', (Role.DENSE, Role.QUERIES)), Slot('mask_head', (Role.ONE_STAGE_MASK,))),
    LearningRate('one-stage', paper=0.008, stock=0.01),
)
_ONE_STAGE_MASKS = Layout((Slot('mask_head', (Role.INSTANCES,)),), _ONE_STAGE.learning_rate)
_PANOPTIC = Layout(
    (Slot('panoptic_head', (Role.INSTANCES,)), Slot('panoptic_fusion_head', (Role.FUSION,))), _ONE_STAGE.learning_rate
)
_VIDEO = Layout((Slot('track_head', (Role.INSTANCES,)),), _ONE_STAGE.learning_rate)
_TWO_STAGE = Layout(
    (
        # Usually an RPN, but any dense head can compute proposals.
        Slot('rpn_head', (Role.PROPOSALS, Role.DENSE), ('rpn',)),
        Slot('roi_head', (Role.ROI,), ('rcnn',)),
    ),
    _R_CNN,
)


def swap_loss(cfg: Config | MutableMapping, loss: str = 'brs') -> Swap:
    """Put a ranking loss into a detector's config, with the settings of the paper.

    Args:
        cfg: An MMDetection config, as ``Config.fromfile`` reads it. It is not changed.
        loss: 'brs', 'rs', 'bap', 'ap', 'alrp' or 'dr'; or the name of a registered ranking loss, e.g. 'BucketedRSLoss'.

    Returns:
        The new config, the list of changes, and the overrides for a config that inherits ``cfg``.

    Raises:
        SwapError: The detector cannot be trained with a ranking loss, or already has one; or ``loss`` is not known, or
            has arguments without a default.

    Example:
        >>> from mmengine.hub import get_config
        >>> from bucketed_losses.mmdet.swap import swap_loss
        >>> swap = swap_loss(get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'), 'brs')
        >>> swap.cfg.model.bbox_head.type, swap.cfg.model.bbox_head.loss_cls.type
        ('RankBasedRetinaHead', 'BucketedRSLoss')
        >>> [change.new for change in swap.changes if change.path == 'optim_wrapper.optimizer.lr']
        [0.008]
    """
    name = LOSSES.get(loss, loss)
    known = registered_class(name)
    if known is None or not issubclass(known, RankingLoss) or known is RankingLoss:
        raise SwapError(
            f'no loss is called {loss!r}; there are {", ".join(LOSSES)}{nearest(loss, [*LOSSES, *LOSSES.values()])}'
        )
    if needs := _arguments_without_default(known):
        raise SwapError(
            f'{name} cannot be built without {" and ".join(needs)}, for which a swap has no value; swap to one of '
            f'{", ".join(LOSSES)}, and write loss_cls of each ranking head in a config that inherits the result'
        )
    swapper = _Swapper(cfg, name, known)
    swapper.run()
    edited = swapper.edited
    return Swap(Config(copy.deepcopy(edited.cfg)), edited.changes, edited.overrides(), swapper.notes)


def swap_here(variables: dict[str, Any], loss: str = 'brs') -> None:
    """Put a ranking loss into the config file that calls this in its last line, including its base configs.

    The call uses ``__import__``, because MMEngine reads a config that imports a package as a lazy config::

        __import__('bucketed_losses').swap_here(globals(), 'brs')

    Args:
        variables: ``globals()`` of the config.
        loss: As for :func:`swap_loss`.

    Raises:
        SwapError: As :func:`swap_loss`.
    """
    own = {
        key: value
        for key, value in variables.items()
        if not key.startswith('_') and not isinstance(value, (types.ModuleType, types.FunctionType))
    }
    if any(isinstance(value, (LazyObject, LazyAttr)) for value in values_of(own, 'type')):
        raise SwapError('swap_here cannot read a lazy config; convert it with bucketed-losses swap, or by swap_loss')
    bases = plain(variables.get('_base_', {}))
    merged = Config(copy.deepcopy(bases))
    merged.merge_from_dict(_without_placeholders((), plain(own), bases))
    import_custom_modules(merged, 'swap_here', allow_failed_imports=True)
    for key, value in swap_loss(merged, loss).cfg.items():
        new = plain(value)
        # The new value already contains the values of the base configs.
        replaces = isinstance(new, dict) and isinstance(bases.get(key), dict)
        variables[key] = {'_delete_': True, **new} if replaces else new


class _Swapper:
    """Walks through the heads of a detector and applies their recipes."""

    def __init__(self, cfg: Config | MutableMapping, loss_name: str, loss: type[RankingLoss]) -> None:
        self.edited = EditedConfig(cfg)
        self.loss_name = loss_name
        self.loss = loss
        self.notes: list[str] = []
        self.root: Path = ('model',)  # the keys that lead to the detector with the heads
        self.default_scope = self.edited.cfg.get('default_scope') or MMDET_SCOPE
        self.writes_scope = not self._looks_up_plain_names()
        data = self.edited.cfg.get('train_dataloader', {})
        self.dataset_types = tuple(str(value) for value in values_of(data, 'type'))

    def run(self) -> None:
        """Convert the config.

        Raises:
            SwapError: The config cannot be converted.
        """
        model = self.edited.get('model')
        if not isinstance(model, dict) or 'type' not in model:
            raise SwapError('the config has no model with a type, so it is not the config of a detector')
        self._refuse_if_ranked('model', model)
        outer = model
        model = self._inner_detector(model)
        layout = self._layout(model)
        for slot in layout.slots:
            self._slot(slot, model)
        self._stock_fusion(model, layout)
        if model is not outer:
            self._outer_detector(outer)
        if layout.learning_rate is not None:
            self._learning_rate(layout.learning_rate)
        if self.loss_name == 'aLRPLoss' and self.edited.get('train_cfg', 'max_iters') is not ABSENT:
            self.notes.append(
                'training is counted in iterations: set renew_interval of each aLRPLoss to the number of iterations '
                'in one pass through the data'
            )
        self._imports()
        self._checkpoints()
        if functions := [dotted(path) for path in functions_in(self.edited.cfg)]:
            self.notes.append(
                f'{" and ".join(functions)}: a function cannot be written to a file; a config that inherits the '
                'original keeps it, but Swap.cfg.dump fails'
            )

    def _refuse_if_ranked(self, path: str, part: Any, key: str = '') -> None:
        if isinstance(part, dict):
            # Only heads and losses can rank. Other parts with a type, such as layers, are skipped.
            found = self._class(part, part) if 'head' in key or key.startswith('loss') else None
            if found is not None and (is_ranking_head(found) or issubclass(found, RankingLoss)):
                raise SwapError(
                    f'the config already has a ranking loss: {path}.type is {found.__name__}; to use another one, set '
                    'the type of each loss_cls'
                )
            for name, value in part.items():
                self._refuse_if_ranked(f'{path}.{name}', value, str(name))
        elif isinstance(part, (list, tuple)):
            for index, value in enumerate(part):
                self._refuse_if_ranked(f'{path}.{index}', value, key)

    # Where the heads are

    def _inner_detector(self, model: dict[str, Any]) -> dict[str, Any]:
        """The detector that has the heads: that of a tracker or of a teacher and a student, or ``model`` itself."""
        inner = model.get('detector')
        # A tracker with a detector may have a track_head, too, which compares its detections.
        own = [key for key in self._keys() if key != 'track_head' and model.get(key)]
        if isinstance(inner, dict) and 'type' in inner and not own:
            self.root = ('model', 'detector')
            return inner
        return model

    def _outer_detector(self, model: dict[str, Any]) -> None:
        """Apply the recipe of a model around a detector, if it has one; its other parts do not change."""
        recipe = recipe_of(self._class(model, model))
        if recipe is not None and recipe.role is Role.AROUND:
            self._apply(recipe, ('model',), Slot('model', (Role.AROUND,)), model)
        parts = [key for key in model if key.endswith(('_head', 'tracker', 'reid'))]
        if parts:
            self.notes.append(
                f'the detector of the {type_name(model["type"])} is converted; {" and ".join(parts)} stay as they are, '
                'because they do not learn from ranked boxes'
            )
        if 'tracker' in model:
            self.notes.append(
                'model.tracker compares the scores of detections with thresholds; ranking scores are not '
                'probabilities: choose the thresholds again, or calibrate the detector (QDTrack and MaskTrack R-CNN do '
                'not see calibrated scores)'
            )

    def _keys(self) -> list[str]:
        """The keys under which detectors hold their heads."""
        return list(dict.fromkeys(slot.key for layout in self._all_layouts() for slot in layout.slots))

    def _layout(self, model: dict[str, Any]) -> Layout:
        """The layout that is registered for the detector's class, or one that fits the heads in its config."""
        name = type_name(model['type'])
        keys = self._keys()
        if refusal := no_ranking_form_of(self._class(model, model)):
            raise SwapError(f'{dotted(self.root)} has the type {name}, which has no ranking form: {refusal.why(model)}')
        if model.get('query_head') and isinstance(model.get('bbox_head'), (list, tuple)):
            raise SwapError(
                f'{dotted((*self.root, "query_head"))} is a key of the {name} in projects/CO-DETR of MMDetection, '
                'which cannot be swapped; start from a config in configs/co_dino or configs/co_detr of this package '
                'instead, and rename its checkpoints by bucketed-losses convert co-detr'
            )
        if not any(model.get(key) for key in keys):
            others = [key for key in model if key.endswith(('_head', 'heads', 'detector'))] or ['none']
            raise SwapError(
                f'{name} has no classification loss that could rank boxes: none of {", ".join(keys)} is in its '
                f'config (heads it has: {", ".join(others)})'
            )
        layout = layout_of(self._class(model, model))
        if layout is None and model.get('roi_head'):
            layout = _TWO_STAGE
        elif layout is None and model.get('bbox_head'):
            layout = _ONE_STAGE
        elif layout is None and model.get('rpn_head'):
            layout = _RPN
        elif layout is None and model.get('mask_head'):
            layout = _ONE_STAGE_MASKS
        elif layout is None and model.get('panoptic_head'):
            layout = _PANOPTIC
        elif layout is None and model.get('track_head'):
            layout = _VIDEO
        if layout is None:
            held = [key for key in keys if model.get(key)]
            raise SwapError(
                f'{name} has {" and ".join(held)}, which only a CoDETR has in addition to its bbox_head; a detector '
                'with a ranking loss needs a bbox_head, an rpn_head or a roi_head'
            )
        missing = [slot.key for slot in layout.slots if slot.required and not model.get(slot.key)]
        if missing:
            raise SwapError(f'{dotted((*self.root, missing[0]))} is missing: a {name} cannot be trained without it')
        return layout

    @staticmethod
    def _all_layouts() -> list[Layout]:
        return [_RPN, _ONE_STAGE, _TWO_STAGE, _ONE_STAGE_MASKS, _PANOPTIC, _VIDEO, *layouts()]

    def _slot(self, slot: Slot, model: dict[str, Any]) -> None:
        part = model.get(slot.key)
        if not part:
            return
        if not slot.several and not isinstance(part, dict):
            raise SwapError(f'{dotted((*self.root, slot.key))} is a list of heads, but it must be one head')
        for where in each(part):
            self._head((*self.root, slot.key, *where), slot.roles, slot)

    def _stock_fusion(self, model: dict[str, Any], layout: Layout) -> None:
        """Note which threshold decides what is drawn by a fusion head that stays, as that of an R-CNN with masks."""
        (key,) = (slot.key for slot in _PANOPTIC.slots if Role.FUSION in slot.roles)
        if model.get(key) and key not in [slot.key for slot in layout.slots]:
            self.notes.append(
                f'{dotted((*self.root, key))} draws each instance with a score above score_thr of test_cfg.rcnn as a '
                'segment; ranking scores are not probabilities: choose score_thr on validation images by the panoptic '
                'quality'
            )

    # One head

    def _head(self, path: Path, roles: tuple[Role, ...], slot: Slot) -> None:
        """Apply the recipe of the head at ``path`` and of the heads inside it."""
        config = self.edited.get(*path)
        self._apply(self._recipe(path, config, roles), path, slot, config)

    def _apply(self, recipe: Recipe, path: Path, slot: Slot, config: dict[str, Any]) -> None:
        roots: dict[str, Path] = {
            'head': path,
            'train_cfg': (*self.root, 'train_cfg', *slot.settings),
            'test_cfg': (*self.root, 'test_cfg', *slot.settings),
        }
        train_cfg, test_cfg = (self.edited.get(*roots[key]) for key in ('train_cfg', 'test_cfg'))
        part = Part(
            path=dotted(path),
            config=config,
            train_cfg=None if train_cfg is ABSENT else train_cfg,
            test_cfg=None if test_cfg is ABSENT else test_cfg,
            loss=self.loss,
            loss_name=self.loss_name,
            loss_weight=slot.loss_weight,
            dataset_types=self.dataset_types,
            scope=self._scope(config),
        )
        self.edited.set((*path, 'type'), self._scoped(recipe.head.__name__), recipe.reason)
        self.notes += [
            f'{part.path}.{key} stays in the config but has no effect' for key in recipe.unused if key in config
        ]
        for rule in recipe.rules:
            for step in rule.apply(part):
                if isinstance(step, Setting):
                    value = step.value if step.is_the_users else self._value(step.value)
                    self.edited.set((*roots[step.of], *step.where), value, step.reason)
                elif isinstance(step, Inner):
                    self._head((*path, *step.where), (step.role,), slot)
                elif isinstance(step, Note):
                    self.notes.append(step.text)
                elif isinstance(step, Refusal):
                    raise SwapError(f'{part.path} cannot be trained with {self.loss_name}: {step.reason}')

    def _recipe(self, path: Path, config: dict[str, Any], roles: tuple[Role, ...]) -> Recipe:
        """The recipe for the head at ``path``.

        Raises:
            SwapError: There is no recipe that fits.
        """
        if 'type' not in config:
            raise SwapError(f'{dotted(path)} has no type')
        stock = self._class(config, config)
        recipe = recipe_of(stock)
        if recipe is None or recipe.role not in roles:
            raise SwapError(self._why_not(path, config, stock, roles))
        return recipe

    def _why_not(self, path: Path, config: dict[str, Any], stock: type | None, roles: tuple[Role, ...]) -> str:
        """The error message for a head without a ranking form: the reason, and the heads that have one."""
        convertible = {head.__name__: head for head in recipes(*roles)}
        kind = type_name(config['type'])
        names = ', '.join(sorted(convertible))
        if kind in convertible:
            whose = config['type'] if stock is None else f'{stock.__module__}.{stock.__name__}'
            own = convertible[kind]
            return (
                f'{dotted(path)} is {whose}, another class than {own.__module__}.{kind}, which has a ranking form; '
                f'derive your head from {recipes()[own].head.__name__} instead. Heads that have one: '
                f'{names}'
            )
        if refusal := no_ranking_form_of(stock):
            return f'{dotted(path)} has the type {kind}, which has no ranking form: {refusal.why(config)}'
        why = f'{dotted(path)} has the type {kind}, which has no ranking form'
        if _is_softmax(config, stock):
            why += ' and scores by a softmax with background'
        parent = None if stock is None else _first(stock, roles)
        if parent is not None and stock.__module__.startswith('mmdet.'):
            return f'{why}; the nearest head that has one is {parent.__name__}'
        if parent is not None:
            why += f'; it derives from {parent.__name__}: derive a head from {recipes()[parent].head.__name__} instead'
        misspelt = nearest(kind, convertible) if stock is None else ''
        return f'{why}; heads that have one: {names}{misspelt}'

    # Types and scopes

    def _scope(self, config: dict[str, Any]) -> str:
        """The scope in which MMDetection looks up the types in the config of a part of the model."""
        return config.get('_scope_') or self.edited.get('model').get('_scope_') or self.default_scope

    def _class(self, config: dict[str, Any], part: dict[str, Any]) -> type | None:
        kind = config.get('type')
        return None if kind is None else registered_class(kind, scope=self._scope(part))

    def _looks_up_plain_names(self) -> bool:
        """Whether names without a scope are looked up in MMDetection's, as far as the config shows it.

        A config without a default scope is a part of another one, or names the modules of all its classes.
        """
        if 'default_scope' in self.edited.cfg:
            return self.edited.cfg['default_scope'] == MMDET_SCOPE
        kind = self.edited.get('model', 'type')
        return kind is ABSENT or '.' not in str(kind)

    def _scoped(self, name: str) -> str:
        """The name of a class in MMDetection's scope, with this scope if it would be looked up in another one."""
        return f'{MMDET_SCOPE}.{name}' if self.writes_scope else name

    def _value(self, value: Any) -> Any:
        return {**value, 'type': self._scoped(value['type'])} if isinstance(value, dict) and 'type' in value else value

    # The rest of the config

    def _learning_rate(self, rates: LearningRate) -> None:
        optimizer = self.edited.get('optim_wrapper', 'optimizer')
        if not isinstance(optimizer, dict) or 'lr' not in optimizer:
            return
        if type_name(optimizer.get('type', '')) != 'SGD':
            self.notes.append(f'the learning rate of {type_name(optimizer.get("type", "?"))} is not changed')
            return
        if isinstance(optimizer['lr'], bool) or not isinstance(optimizer['lr'], (int, float)):
            raise SwapError(f'optim_wrapper.optimizer.lr must be a number, got {optimizer["lr"]!r}')
        lr = float(f'{optimizer["lr"] * rates.paper / rates.stock:.6g}')
        reason = f'the paper trains {rates.kind} detectors at {rates.paper} where MMDetection does at {rates.stock}'
        self.edited.set(('optim_wrapper', 'optimizer', 'lr'), lr, reason)

    def _imports(self) -> None:
        imports = self.edited.get('custom_imports')
        own = dict(imports) if isinstance(imports, dict) else {}
        modules = imported_modules(imports)
        if 'bucketed_losses.mmdet' not in modules:
            reason = 'registers the losses and heads'
            self.edited.set(('custom_imports',), {**own, 'imports': [*modules, 'bucketed_losses.mmdet']}, reason)

    def _checkpoints(self) -> None:
        """Note what happens to checkpoints of the stock detector that the config loads."""
        loaded: dict[Path, Any] = {('load_from',): self.edited.get('load_from')}
        for path in dict.fromkeys((('model',), self.root)):
            init_cfg = self.edited.get(*path, 'init_cfg')
            for init in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
                if isinstance(init, dict):
                    loaded[(*path, 'init_cfg')] = init.get('checkpoint')
        only_tracks = self.root != ('model',) and self.edited.get('train_dataloader') in (ABSENT, None)
        for path, checkpoint in loaded.items():
            if not isinstance(checkpoint, str) or not checkpoint:
                continue
            if only_tracks:
                self.notes.append(
                    f'{dotted(path)} loads {checkpoint}, and this config does not train its detector: replace it by a '
                    'checkpoint of the swapped detector, which you have to train with a config of its own'
                )
            else:
                what = '; '.join(self._effects_on_stock_weights())
                self.notes.append(f'{dotted(path)} loads {checkpoint}; if it is a stock detector: {what}')

    def _effects_on_stock_weights(self) -> list[str]:
        classifiers = [change for change in self.edited.changes if change.path.endswith('.loss_cls')]
        anew = [_above(change.path) for change in classifiers if 'softmax' in change.reason]
        kept = [_above(change.path) for change in classifiers if 'softmax' not in change.reason]
        coders = [change.path for change in self.edited.changes if '.bbox_coder' in change.path]
        effects = []
        if anew:
            effects.append(f'the classifier of {" and ".join(anew)} starts anew, because it was a softmax')
        if kept:
            effects.append(f'the classifier of {" and ".join(kept)} is loaded, with a prior probability if it has one')
        if coders:
            effects.append(f'boxes are wrong at first where stds of a coder changed ({", ".join(coders)})')
        return effects


def _above(path: str) -> str:
    """The path of what contains a setting."""
    return path.rpartition('.')[0]


def _without_placeholders(path: Path, value: Any, bases: dict[str, Any]) -> Any:
    """``value`` with the values of the base configs where MMEngine has put placeholders for ``{{_base_.x}}``.

    MMEngine itself replaces them after the last line of a config.

    Raises:
        SwapError: The base configs have no such value.
    """
    if isinstance(value, dict):
        return {key: _without_placeholders((*path, key), item, bases) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_placeholders((*path, index), item, bases) for index, item in enumerate(value))
    found = re.fullmatch(r'_([\w.]+)_[0-9a-f]{6}', value) if isinstance(value, str) else None
    if found is None:
        return value
    new: Any = bases
    for key in found[1].split('.'):
        if not isinstance(new, dict) or key not in new:
            raise SwapError(f'{dotted(path)} is {{{{_base_.{found[1]}}}}}, which the base configs do not have')
        new = new[key]
    return copy.deepcopy(new)


def _first(stock: type, roles: tuple[Role, ...]) -> type | None:
    """The nearest ancestor of a class that has a recipe for one of the roles."""
    convertible = recipes(*roles)
    return next((ancestor for ancestor in stock.__mro__ if ancestor in convertible), None)


def _is_softmax(config: dict[str, Any], stock: type | None) -> bool:
    """Whether a head computes its scores by a softmax with a background column.

    The head's ``loss_cls`` shows it. An anchor head that does not accept a ``loss_cls`` has a softmax.
    """
    loss = config.get('loss_cls')
    if isinstance(loss, dict):
        return not loss.get('use_sigmoid', False)
    return stock is not None and issubclass(stock, AnchorHead) and not _takes(stock, 'loss_cls')


def _arguments_without_default(cls: type) -> list[str]:
    parameters = inspect.signature(cls).parameters.items()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, one in parameters if one.default is inspect.Parameter.empty and one.kind not in variable]


def _takes(cls: type, key: str) -> bool:
    """Whether ``cls(..., key=...)`` is valid: an ``__init__`` names the key, and those called before it pass it on."""
    for ancestor in cls.__mro__:
        if '__init__' not in vars(ancestor):
            continue
        parameters = inspect.signature(vars(ancestor)['__init__']).parameters
        if key in parameters:
            return True
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
    return False
