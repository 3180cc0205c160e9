"""Check whether the plug-in can run with the installed MMDetection, without importing it. Standard library only."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from .doctor.facts import ONEDL, OPENMMLAB

INSTALL = (
    'install an mmcv for your torch (docs/getting_started.md#install), then, in a clone of this project, '
    'pip install -e ".[mmdet]" for OpenMMLab\'s MMDetection or pip install -e ".[onedl]" for OneDL\'s'
)
DOCTOR = 'The command python -m bucketed_losses.doctor checks the environment and prints the commands that fix it'


class StackError(ImportError):
    """What is missing or does not fit together, and what to do."""


def installed(distribution: str) -> str | None:
    """The version of a distribution, or None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def check_stack() -> None:
    """Check that MMEngine, mmcv with its compiled operators, and MMDetection are there, each from one family.

    Raises:
        StackError: Something is missing or installed twice. The message says what to do.
    """
    # A folder without __init__.py, such as a clone in the current folder, is found as a module without an origin.
    missing = [module for module in OPENMMLAB if (spec := find_spec(module)) is None or spec.origin is None]
    if missing:
        raise StackError(f'This part of bucketed_losses needs {", ".join(missing)}. To get it, {INSTALL}. {DOCTOR}.')
    openmmlab, onedl = ([name for name in family if installed(name)] for family in (OPENMMLAB, ONEDL.values()))
    if openmmlab and onedl:
        found = [f'{name} {installed(name)}' for name in (*openmmlab, *onedl)]
        raise StackError(
            f'The environment mixes distributions that write the same files: {", ".join(found)}. '
            f'Uninstall all of them. Then {INSTALL}. {DOCTOR}.'
        )
    spec = find_spec('mmcv')
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    if not any(list(folder.glob('_ext*')) for folder in folders):
        name = ONEDL['mmcv'] if onedl else 'mmcv'
        raise StackError(
            f'{name} {installed(name) or ""} has no compiled operators: either pip built it in an environment without '
            f'torch, or it is mmcv-lite. Install a build with operators. {DOCTOR}.'
        )
