"""Builds a runner from a config, after checks of the config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from bucketed_losses.errors import UserError
from bucketed_losses.new_files import check_folder

from .config import replace_data_root
from .config_checks import (
    check_classes,
    check_files,
    check_keys,
    check_metrics,
    check_names,
    check_not_empty,
    import_custom_modules,
)
from .cpu_processes import launch_on_cpu

NEEDS = {
    'train_dataloader': ('train_cfg', 'optim_wrapper'),
    'val_dataloader': ('val_cfg', 'val_evaluator'),
    'test_dataloader': ('test_cfg', 'test_evaluator'),
}
"""The other keys of a config that MMEngine's Runner needs with each data loader."""


def parse_options(texts: Sequence[str], option: str = '--cfg-options') -> dict[str, Any]:
    """The settings of ``--cfg-options``, or of another option, from texts of the form KEY=VALUE.

    ``data_root`` is a folder, whose name may contain commas, brackets and spaces. MMEngine's syntax splits it at the
    commas and drops the spaces.

    Raises:
        UserError: A text has another form.
    """
    settings = {}
    for text in texts:
        key, separator, value = text.partition('=')
        if not key or not separator:
            raise UserError(f'{option}: write KEY=VALUE, got {text!r}')
        if key == 'data_root':
            settings[key] = value.strip('\'"')
            continue
        try:
            settings[key] = DictAction._parse_iterable(value)
        except AssertionError as error:
            raise UserError(f'{option}: brackets do not match, got {text!r}') from error
    return settings


def apply_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override settings as ``--cfg-options`` does. Modules that ``custom_imports`` names then are imported.

    Raises:
        UserError: An option does not fit the config, or a module cannot be imported.
    """
    rest = dict(options)
    try:
        if 'data_root' in rest:
            replace_data_root(cfg, str(rest.pop('data_root')))
        cfg.merge_from_dict(rest)
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(f'--cfg-options: {error.args[0] if error.args else error}') from error
    if any(name.split('.')[0] == 'custom_imports' for name in rest):  # MMEngine has imported those of the file
        import_custom_modules(cfg, '--cfg-options')


def _named(cfg: Config, check: Callable[..., None], *arguments: Any) -> None:
    """Run a check, and put the config's name before its errors."""
    try:
        check(*arguments)
    except UserError as error:
        raise UserError(f'{cfg.filename or "config"}: {error}') from error


def runner_from(cfg: Config, loaders: Sequence[str]) -> Runner:
    """The runner of a config; in a distributed run this joins the other processes.

    Args:
        cfg: The config.
        loaders: Names of the data loaders that will be used; their files are checked immediately.

    Raises:
        UserError: A key is missing, a name in the config is not registered, an annotation file is missing, or the
            work directory cannot be written to.
    """
    # Training without validation is allowed.
    used = [name for name in loaders if name != 'val_dataloader' or cfg.get(name) is not None]
    check_keys(cfg, ['model', *(key for name in used for key in (name, *NEEDS[name]))])
    _named(cfg, check_names, cfg)
    _named(cfg, check_files, cfg, loaders)
    check_folder('work directory (--work-dir)', cfg.work_dir)
    launch_on_cpu(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def refuse_unusable_data(runner: Runner, loops: Sequence[str]) -> Runner:
    """The runner, with its loops built and their data sets checked.

    Args:
        runner: The runner.
        loops: 'train', 'val' or 'test', those that will run.

    Raises:
        UserError: A data set has no images, no objects to train on, or lacks classes of the config; or annotations
            lack what a metric needs.
    """
    _named(runner.cfg, check_not_empty, runner, loops)
    _named(runner.cfg, check_classes, runner, loops)
    _named(runner.cfg, check_metrics, runner, loops)
    return runner
