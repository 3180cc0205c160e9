"""One command at a time in the folder of a study."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bucketed_losses.new_files import check_folder

from .plan import Refusal


@contextmanager
def only_study(folder: Path) -> Iterator[TextIO]:
    """Hold the lock of a study's folder, which is created if it is missing.

    Training processes on this machine inherit the lock: one that outlives a killed study still holds it.

    Raises:
        Refusal: another process holds it, or the file system has no locks.
        UserError: files cannot be written to the folder.
    """
    check_folder('folder of the study (STUDY)', folder)
    file = folder / '.lock'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = file.open('a+')
    except OSError as error:
        raise Refusal(f'{file} cannot be written: {error.strerror}') from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise Refusal(
                f'another study writes into {folder} (process {lock.read().strip()}, or a run that it started before '
                'it was killed); wait until it ends, stop it, or use another folder'
            ) from error
        except OSError as error:
            raise Refusal(
                f'{file} cannot be locked: {error.strerror}; the file system may have no locks, so give a STUDY on '
                'another one'
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock
