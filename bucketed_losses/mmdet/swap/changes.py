"""A config that is edited, and the record of its changes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from ...deprecation import Deprecation
from ...errors import UserError
from ..models.recipes import Path


class _Absent(Enum):
    """Marks a setting that does not exist, as opposed to one that is None."""

    ABSENT = 'not set'


ABSENT = _Absent.ABSENT

_DELTA = Deprecation('Swap.delta', 'read Swap.overrides', since='0.2.0', removal='0.4.0')


class SwapError(UserError):
    """A ranking loss cannot be put into a config; the message gives the reason."""


class Change(NamedTuple):
    """One changed setting.

    Attributes:
        path: The keys that lead to it, joined by dots.
        old: Its old value, or ``ABSENT`` if there was none.
        new: Its new value.
        reason: The reason for the change.
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
    """A config with a ranking loss, and its differences from the original.

    Attributes:
        cfg: The config with the ranking loss; the original config is not changed.
        changes: The changed settings, in the order of the model.
        overrides: The changes as a nested dict, for a config with ``_base_ = ORIGINAL``.
        notes: Remarks on settings that were not changed.
    """

    cfg: Config
    changes: list[Change]
    overrides: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def delta(self) -> dict[str, Any]:
        """Deprecated name of ``overrides``: delta is the half-width of the smoothed step."""
        _DELTA.warn()
        return self.overrides

    def diff(self) -> str:
        """The changes and the notes as text."""
        return '\n'.join([*map(str, self.changes), *(f'  note: {note}' for note in self.notes)])


class EditedConfig:
    """A config as plain dicts that records its changes.

    Attributes:
        cfg: The config.
        changes: The settings that were set to a different value, in order.
    """

    def __init__(self, cfg: Any) -> None:
        self.cfg: dict[str, Any] = plain(cfg)
        self.original = copy.deepcopy(self.cfg)
        self.changes: list[Change] = []

    def get(self, *path: str | int) -> Any:
        """The value at a path, or ``ABSENT``."""
        value: Any = self.cfg
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return ABSENT
        return value

    def set(self, path: Path, new: Any, reason: str) -> None:
        """Set the value at a path; its parent must exist."""
        old = self.get(*path)
        if old is not ABSENT and old == new:
            return
        for length in range(1, len(path)):
            above, key = self.get(*path[: length - 1]), path[length - 1]
            if isinstance(above[key], tuple):
                above[key] = list(above[key])
        self.get(*path[:-1])[path[-1]] = copy.deepcopy(new)
        self.changes.append(Change(dotted(path), copy.deepcopy(old), new, reason))

    def overrides(self) -> dict[str, Any]:
        """The nested dict that turns the original into the edited config if it inherits the original."""
        return _difference(self.original, self.cfg)


def dotted(path: Path) -> str:
    """A path as keys joined by dots, as users write it."""
    return '.'.join(map(str, path))


def plain(value: Any) -> Any:
    """A config's value as plain dicts and lists. Classes become their full names, as do functions that are a type.

    MMEngine builds such a function by its name, too. Other functions, and those that no module has, stay as they are.
    """
    if isinstance(value, Config):
        value = value._cfg_dict
    if isinstance(value, ConfigDict):
        value = value.to_dict() if hasattr(value, 'to_dict') else dict(value)
    if isinstance(value, dict):
        return {key: (_function_name(item) if key == 'type' else None) or plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    if isinstance(value, type):
        return f'{value.__module__}.{value.__name__}'
    return copy.deepcopy(value)


def _function_name(value: Any) -> str | None:
    """The full name of a function by which it can be imported, or None."""
    module, name = getattr(value, '__module__', None), getattr(value, '__qualname__', None)
    if not callable(value) or isinstance(value, type) or module is None or name is None:
        return None
    return f'{module}.{name}' if getattr(sys.modules.get(module), name, None) is value else None


def values_of(part: Any, key: str) -> Iterator[Any]:
    """The values of all entries called ``key`` in nested dicts and lists."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from values_of(value, key)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The settings that turn ``old`` into ``new`` in a config that inherits ``old``.

    A loss, a sampler or a dict that lacks a key of the old dict replaces the old dict as a whole (``_delete_``).
    """
    overrides: dict[str, Any] = {}
    for key, value in new.items():
        before = old.get(key, ABSENT)
        if before is not ABSENT and before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            loss_like = key.startswith(('loss', 'sampler'))
            gone = set(before) - set(value)
            overrides[key] = {'_delete_': True, **value} if loss_like or gone else _difference(before, value)
        else:
            overrides[key] = value
    return overrides
