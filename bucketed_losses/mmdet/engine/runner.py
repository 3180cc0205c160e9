"""Build a runner from a config, with the checks that come first."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from bucketed_losses.errors import UserError

from .config import replace_data_root
from .config_checks import check_files, check_names, check_not_empty
from .cpu_processes import launch_on_cpu


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """The settings of ``--cfg-options``, from texts of the form KEY=VALUE."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=DictAction, default={})
    return parser.parse_args(['--cfg-options', *texts]).cfg_options or {}


def apply_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override settings as ``--cfg-options`` does: ``data_root`` moves the data of all loaders and evaluators."""
    rest = dict(options)
    if 'data_root' in rest:
        replace_data_root(cfg, str(rest.pop('data_root')))
    cfg.merge_from_dict(rest)


def runner_from(cfg: Config, loaders: Sequence[str]) -> Runner:
    """The runner of a config; in a distributed run this joins the other processes.

    Args:
        cfg: The config.
        loaders: Names of the data loaders that will be used; their files are looked for at once.

    Raises:
        UserError: a name in the config is not registered, or an annotation file is missing.
    """
    try:
        check_names(cfg)
        check_files(cfg, loaders)
    except (KeyError, FileNotFoundError, ValueError) as error:
        raise UserError(f'{cfg.filename or "config"}: {error.args[0]}') from error
    launch_on_cpu(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def refuse_empty_data(runner: Runner, loops: Sequence[str]) -> Runner:
    """The runner, with its loops built.

    Raises:
        UserError: a data set has no images.
    """
    try:
        check_not_empty(runner, loops)
    except ValueError as error:
        raise UserError(f'{runner.cfg.filename}: {error}') from error
    return runner
