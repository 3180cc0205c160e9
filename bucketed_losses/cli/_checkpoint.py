"""Loading a checkpoint safely, for the verbs that read one themselves."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine import safe_load, why_damaged


def check_checkpoint(path: str | Path) -> None:
    """Refuse a checkpoint that MMEngine's ``Runner`` could not load; URLs are left to it.

    The tensors are not loaded, but their checksums are compared.

    Raises:
        UserError: as for :func:`load_safely`.
    """
    if '://' not in str(path):
        load_safely(path, mmap=zipfile.is_zipfile(path))  # torch before 1.6 wrote another format


def load_safely(path: str | Path, mmap: bool | None = None) -> dict[str, Any]:
    """The checkpoint, on the CPU.

    Args:
        path: Its file.
        mmap: As for :func:`torch.load`.

    Raises:
        UserError: it is missing, incomplete, no checkpoint, or holds more than tensors and plain data.
    """
    why = why_damaged(path) if zipfile.is_zipfile(path) else None
    if why is not None:
        raise UserError(f'{path} is not a complete checkpoint: {why}')
    try:
        checkpoint = safe_load(path, map_location='cpu', mmap=mmap)
    except FileNotFoundError as error:
        raise UserError(f'{path} cannot be loaded safely: there is no such file') from error
    except Exception as error:  # a damaged file may fail anywhere
        why = 'it is truncated' if _lacks_directory(path) else str(error)
        raise UserError(f'{path} cannot be loaded safely: {why}') from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'{path} holds a {type(checkpoint).__name__}, not a checkpoint')
    return checkpoint


def _lacks_directory(path: str | Path) -> bool:
    """Whether a file starts as a zip archive and lacks the directory at its end."""
    if not Path(path).is_file() or zipfile.is_zipfile(path):
        return False
    with Path(path).open('rb') as file:
        return file.read(2) == b'PK'
