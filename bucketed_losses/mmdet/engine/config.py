"""What the settings of a loaded config mean, and changes that MMEngine's ``--cfg-options`` cannot express."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ...errors import UserError


def imported_modules(custom_imports: Any) -> list[str]:
    """The modules that the ``custom_imports`` of a config name; none if it is not a dict."""
    modules = (custom_imports.get('imports') if isinstance(custom_imports, dict) else None) or []
    return [modules] if isinstance(modules, str) else list(modules)


def type_name(kind: Any) -> str:
    """The name of a class in a config, which has the class itself or a string, with or without a scope or a module."""
    return kind.__name__ if isinstance(kind, type) else str(kind).rsplit('.', 1)[-1].rsplit('::', 1)[-1]


def enter_scope(cfg: Config) -> None:
    """Look up names as a config does: in its default scope, or in MMDetection's if it has none."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')


def functions_in(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of functions in nested dicts and lists."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield from functions_in(value, (*path, key))
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            yield from functions_in(value, (*path, index))
    elif callable(part):
        yield path


class DataRootError(UserError, KeyError):
    """The data root of a config cannot be replaced."""


def replace_data_root(cfg: Config, new_root: str) -> None:
    """Replace the data root in all paths of a config, in place.

    In MMEngine, ``--cfg-options data_root=...`` changes only the variable of that name, because the loaders and
    evaluators got its old value when the file was read. This function replaces the old root at the start of every
    string.

    Args:
        cfg: The config.
        new_root: The new folder; '' is the current folder.

    Raises:
        DataRootError: The config has no top-level ``data_root``, or an empty one: then it is not known which strings
            are paths below it.
    """
    old_root = cfg.get('data_root')
    if not old_root:
        what = 'no top-level' if old_root is None else 'an empty'
        raise DataRootError(
            f'the config has {what} data_root to replace; set the data_root of each data loader instead'
        )
    old_root = old_root.rstrip('/') + '/'
    new_root = new_root.rstrip('/') + '/' if new_root else ''

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = moved(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(moved(item) for item in value)
        elif isinstance(value, str) and value and (value + '/').startswith(old_root):
            return new_root + value[len(old_root) :]
        return value

    moved(cfg._cfg_dict)
