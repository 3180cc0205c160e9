"""Files and folders that a command writes: completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


def check_folder(what: str, folder: str | Path) -> None:
    """Refuse a folder that files cannot be written to; it may be missing. Nothing is written.

    Args:
        what: What it is for, with the option that names another one, e.g. ``'work directory (--work-dir)'``.
        folder: The folder.

    Raises:
        UserError: the folder, or the nearest one above it, is a file or cannot be written to.
    """
    for path in (Path(folder).absolute(), *Path(folder).absolute().parents):
        if os.access(path, os.F_OK):
            break
    if not path.is_dir():
        raise UserError(f'{what} {folder}: {path} is a file, not a folder')
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f'{what} {folder}: cannot write files to {path}')


@contextmanager
def new_files(*paths: Path) -> Iterator[list[Path]]:
    """Names to write some files to. The files appear at ``paths`` together when the block ends without an error.

    If there is an error, all of them are removed, and files that were at ``paths`` before are unchanged. The
    temporary names have the folders and the suffixes of ``paths``.

    Raises:
        UserError: a file cannot be written, e.g. because the disk is full.
    """
    temporary = [path.with_name(f'{path.stem}_writing_{os.getpid()}{path.suffix}') for path in paths]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for written, path in zip(temporary, paths, strict=True):
            written.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        names = ', '.join(path.name for path in paths)
        raise UserError(f'{names} cannot be written to {paths[0].absolute().parent}: {reason}') from error
    finally:
        for written in temporary:
            if os.access(written, os.F_OK):
                written.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write to. It becomes ``path`` when the block ends without an error, and is removed otherwise.

    Args:
        path: A name that is free, or an empty folder. Missing folders above it are made.

    Raises:
        UserError: it is the current folder, which cannot be replaced, or it cannot be written.
    """
    if path.resolve() == Path.cwd():
        raise UserError(f'{path} is the current folder, which cannot be replaced; give the name of a new folder')
    check_folder('new folder', path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f'.{path.name}-') as temporary:
            made = Path(temporary) / 'new'
            made.mkdir()
            yield made
            made.rename(path)
    except UserError:  # may be an OSError, too
        raise
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error}') from error
