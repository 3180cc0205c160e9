"""Recipes: the changes that turn the config of a stock head into the config of a ranking head.

Each ranking head registers its :class:`Recipe` in its own file, with :func:`ranking_head`.
:mod:`bucketed_losses.mmdet.swap` applies the recipes, :mod:`~bucketed_losses.mmdet.models.pairing` reads from them
which ranking head to suggest, and the table of heads in the docs is made from them. None of these knows a head by name.
Heads are matched by class.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

from mmdet.registry import MODELS
from mmengine.registry import Registry
from torch import nn

from .losses import RankingLoss

MMDET_SCOPE = 'mmdet'
"""Scope of the registries that this package registers its classes in."""

Path = tuple[str | int, ...]
"""Keys and indices that lead to a value of a config."""


RANKS = 'ranks all predictions of a batch, labelled by the IoU of their boxes'
"""The reason for the type of most ranking heads."""


class Role(Enum):
    """The function of a head in a detector. Each :class:`Slot` of a detector accepts some roles."""

    DENSE = 'dense head'
    QUERIES = 'query head'
    PROPOSALS = 'region proposals'
    ROI = 'RoI head'
    BOX = 'box head of an RoI head'
    MASK = 'mask head of an RoI head'
    INSTANCES = 'mask head with classes'
    FUSION = 'fusion of masks with classes'
    ONE_STAGE_MASK = 'mask head of a one-stage detector'
    AROUND = 'model around a detector'


class Setting(NamedTuple):
    """A value that a recipe puts into a config.

    Attributes:
        where: Its keys below the head's config.
        value: The value; a type is the name of a class in the scope ``mmdet``.
        reason: The reason that is shown to the user.
        of: The config that ``where`` starts from: 'head', or 'train_cfg' or 'test_cfg' of the head.
        is_the_users: Whether the value is a part of the user's config; the scopes of its types do not change then.
    """

    where: Path
    value: Any
    reason: str
    of: str = 'head'
    is_the_users: bool = False


class Note(NamedTuple):
    """A remark for the user on something that the recipe does not change."""

    text: str


class Refusal(NamedTuple):
    """Why the head of this config cannot be trained with the loss that the user chose."""

    reason: str


class Inner(NamedTuple):
    """A head inside the config of another head. Its own recipe is applied at this point.

    Attributes:
        where: Its keys below the outer head's config.
        role: The role that it must have.
    """

    where: Path
    role: Role


@dataclass(frozen=True)
class Part:
    """The config of one head and the settings that belong to it. Rules read it and do not change it.

    The configs contain the values that earlier rules have set.

    Attributes:
        path: The keys that lead to the head, joined by dots.
        config: The head's config.
        train_cfg: The part of ``model.train_cfg`` that belongs to it; a dict, a list of dicts, or None.
        test_cfg: The same part of ``model.test_cfg``.
        loss: The class of the ranking loss.
        loss_name: Its name in the registry.
        loss_weight: The weight that the detector gives the loss of this head, or None.
        dataset_types: Names of the types of the data sets that the detector is trained on.
        scope: The scope in which types without a scope are looked up.
    """

    path: str
    config: dict[str, Any]
    train_cfg: Any
    test_cfg: Any
    loss: type[RankingLoss]
    loss_name: str
    loss_weight: float | None
    dataset_types: tuple[str, ...]
    scope: str | None

    @property
    def scales_other_losses(self) -> bool:
        """Whether the loss scales other losses of a head to its value, unless its config sets ``self_balancing``.

        A loss that is a box loss too, such as aLRP Loss, balances only its own parts.
        """
        return self.loss.balances_itself and 'loss_bbox' not in self.loss.LOG_NAMES

    def type_of(self, config: Any, registry: Registry = MODELS) -> type | None:
        """The class of a config with a ``type``, or None if there is none or it is not known."""
        kind = config.get('type') if isinstance(config, dict) else None
        return None if kind is None else registered_class(kind, registry, self.scope)


class Rule(NamedTuple):
    """One step of a recipe.

    Attributes:
        changes: The settings that the rule may change, as keys joined by dots. Settings outside the head's own config
            start with ``train_cfg`` or ``test_cfg``.
        apply: Yields the changes in order. Each is applied before the next one is computed.
        unused: Settings that have no effect any more, written as in ``changes``. A note of the rule says why.
    """

    changes: tuple[str, ...]
    apply: Callable[[Part], Iterator[Setting | Note | Inner | Refusal]]
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How the config of a stock head becomes that of a ranking head.

    Attributes:
        head: The ranking head.
        replaces: The stock heads that it takes the place of.
        role: Its function in a detector.
        rules: The changes besides the type, in order.
        unused: Keys of the stock head that the ranking head accepts and ignores.
        reason: The reason for the new type that is shown to the user.
        own_classifier: Whether the stock head builds a classifier of its own, which has a channel for background
            whatever its loss is, so that it cannot train even a ranking loss without IoUs.
    """

    head: type[nn.Module]
    replaces: tuple[type[nn.Module], ...]
    role: Role
    rules: tuple[Rule, ...]
    unused: tuple[str, ...] = ()
    reason: str = RANKS
    own_classifier: bool = False


class NoRankingForm(NamedTuple):
    """Why a stock head or a stock detector has no ranking form.

    Attributes:
        reason: The reason, in one clause.
        instead: The nearest stock head that has a recipe; a function that names a config to convert, given the refused
            part of the config; or None.
    """

    reason: str
    instead: type[nn.Module] | Callable[[dict[str, Any]], str] | None = None

    def why(self, config: dict[str, Any]) -> str:
        """The end of an error message on a part of a config: the reason, and what works instead."""
        if self.instead is None:
            return self.reason
        if isinstance(self.instead, type):
            return f'{self.reason}; the nearest head that has one is {self.instead.__name__}'
        return f'{self.reason}; convert {self.instead(config)} instead'


class Slot(NamedTuple):
    """A key of a detector's config that holds a head, or a list of heads.

    Attributes:
        key: The key.
        roles: The roles that a head under this key may have.
        settings: The keys, below ``train_cfg`` and ``test_cfg`` of the detector, that lead to the settings of the head.
        loss_weight: The weight of its ranking loss; None for the loss's default.
        several: Whether the key may hold a list of heads.
        required: Whether the detector needs the key.
    """

    key: str
    roles: tuple[Role, ...]
    settings: tuple[str, ...] = ()
    loss_weight: float | None = None
    several: bool = False
    required: bool = False


class LearningRate(NamedTuple):
    """The SGD learning rates of a kind of detector, in the paper and in MMDetection's configs.

    Attributes:
        kind: The kind, for the message to the user.
        paper: The learning rate in the paper.
        stock: The learning rate in MMDetection's configs.
    """

    kind: str
    paper: float
    stock: float


@dataclass(frozen=True)
class Layout:
    """The parts of a kind of detector that a swap changes.

    Attributes:
        slots: Its heads, in the order in which they are converted.
        learning_rate: How its learning rate changes; None if it does not.
    """

    slots: tuple[Slot, ...]
    learning_rate: LearningRate | None = None


_RECIPES: dict[type, Recipe] = {}
_NO_RANKING_FORMS: dict[type, NoRankingForm] = {}
_LAYOUTS: dict[type, Layout] = {}

Head = TypeVar('Head', bound=type[nn.Module])
Detector = TypeVar('Detector', bound=type[nn.Module])


def ranking_head(
    *replaces: type[nn.Module],
    role: Role,
    rules: Sequence[Rule],
    unused: Sequence[str] = (),
    reason: str = RANKS,
    own_classifier: bool = False,
) -> Callable[[Head], Head]:
    """Class decorator that registers the recipe of a ranking head; arguments as for :class:`Recipe`.

    Raises:
        ValueError: A stock head has a recipe already.
    """

    def register(head: Head) -> Head:
        recipe = Recipe(head, replaces, role, tuple(rules), tuple(unused), reason, own_classifier)
        for stock in replaces:
            if stock in _RECIPES:
                raise ValueError(
                    f'{head.__name__}: {stock.__name__} is already replaced by {_RECIPES[stock].head.__name__}'
                )
            _RECIPES[stock] = recipe
        return head

    return register


def no_ranking_form(
    *stocks: type[nn.Module], reason: str, instead: type[nn.Module] | Callable[[dict[str, Any]], str] | None = None
) -> None:
    """Declare why stock heads or detectors have no ranking form; the other arguments as for :class:`NoRankingForm`."""
    _NO_RANKING_FORMS.update(dict.fromkeys(stocks, NoRankingForm(reason, instead)))


def holds_heads(layout: Layout) -> Callable[[Detector], Detector]:
    """Class decorator that registers the layout of a detector that has its own keys for heads in its config."""

    def register(detector: Detector) -> Detector:
        _LAYOUTS[detector] = layout
        return detector

    return register


def recipe_of(stock: type | None) -> Recipe | None:
    """The recipe that replaces exactly this class. A subclass or another class of the same name has none."""
    return None if stock is None else _RECIPES.get(stock)


def no_ranking_form_of(stock: type | None) -> NoRankingForm | None:
    """What was declared for exactly this class, or None."""
    return None if stock is None else _NO_RANKING_FORMS.get(stock)


def no_ranking_forms() -> dict[type, NoRankingForm]:
    """All refusals that were declared, by the stock class."""
    return dict(_NO_RANKING_FORMS)


def recipes(*roles: Role) -> dict[type, Recipe]:
    """Recipes of all heads, or of those with some roles, by the stock class that they replace."""
    return {stock: recipe for stock, recipe in _RECIPES.items() if not roles or recipe.role in roles}


def layout_of(detector: type | None) -> Layout | None:
    """The layout that a detector class, or one that it derives from, has registered."""
    ancestors = () if detector is None else detector.__mro__
    return next((_LAYOUTS[ancestor] for ancestor in ancestors if ancestor in _LAYOUTS), None)


def layouts() -> list[Layout]:
    """All layouts that were registered."""
    return list(_LAYOUTS.values())


def is_ranking_head(head: type) -> bool:
    """Whether a class is a ranking head with a recipe, or derives from one."""
    return issubclass(head, tuple({recipe.head for recipe in _RECIPES.values()}))


def registered_class(kind: Any, registry: Registry = MODELS, scope: str | None = None) -> type | None:
    """The class that the ``type`` of a config names.

    Args:
        kind: A name, a name with its scope (``mmdet.RetinaHead``) or its module, or the class.
        registry: The registry in which MMDetection looks it up.
        scope: The scope in which a name without one is looked up first, e.g. the config's ``default_scope``.

    Returns:
        The class, or None if it is not known.
    """
    if isinstance(kind, type):
        return kind
    name = str(kind)
    scoped = [f'{scope}.{name}'] if scope not in (None, registry.scope) and '.' not in name else []
    for key in (*scoped, name):
        try:
            found = registry.get(key)
        except RuntimeError:  # MMEngine raises it for an unknown scope or module
            continue
        if isinstance(found, type):
            return found
    return None


def import_ranking_heads(package: str, folder: Sequence[str]) -> dict[str, type]:
    """Import every module of a package, and return the ranking heads in them that have a recipe, by name.

    Args:
        package: Name of the package.
        folder: Its ``__path__``.
    """
    for module in pkgutil.iter_modules(folder):
        import_module(f'{package}.{module.name}')
    heads = {recipe.head for recipe in _RECIPES.values()}
    return {head.__name__: head for head in heads if head.__module__.startswith(f'{package}.')}
