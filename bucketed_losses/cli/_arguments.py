"""Arguments that several verbs have in the same form."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..errors import UserError


class Values(argparse.Action):
    """Stores the values of an option in place of its default; an option that is given again adds to them."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *more: Any) -> None:
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, list(values) if given is self.default else [*given, *values])


def add_cfg_options(parser: argparse.ArgumentParser, help: str) -> None:  # noqa: A002
    """Add ``--cfg-options`` as texts, for a verb that passes them on or applies them to several configs."""
    parser.add_argument('--cfg-options', nargs='+', action=Values, default=[], metavar='KEY=VALUE', help=help)


def add_out(parser: argparse.ArgumentParser, what: str, *, old: str = '', **kwargs: Any) -> None:
    """Add ``--out``, where a verb writes its results, as a path.

    Args:
        parser: The parser of the verb.
        what: The help text: what is written there.
        old: An earlier spelling of the option, which still works and is not shown.
        kwargs: As for ``add_argument``: ``default``, ``required``, ``metavar``.
    """
    parser.add_argument('--out', type=Path, help=what, **kwargs)
    if old:
        parser.add_argument(old, dest='out', type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``, without which no file is overwritten."""
    parser.add_argument('--force', action='store_true', help='overwrite files that exist')


def refuse_to_overwrite(*files: Path, force: bool) -> None:
    """Check that files to be written do not exist yet, unless ``--force`` is given.

    Raises:
        UserError: One of them exists, or is a folder, which ``--force`` does not replace.
    """
    for file in files:
        if os.path.isdir(file):  # noqa: PTH112  (file.is_dir() raises an error if the folder cannot be read)
            raise UserError(f'{file} is a folder; give the name of a file')
        # Not file.exists(), which raises an error if the folder cannot be read.
        if os.access(file, os.F_OK) and not force:
            raise UserError(f'{file} exists already; --force overwrites it')
