"""Checkpoints that are either whole or not there, and the newest whole one to resume from."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .safe_loading import safe_load

ATOMIC = {'backend': 'atomic'}
"""``backend_args`` of :class:`AtomicLocalBackend`."""


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, written beside their place and moved there once they are on the disk.

    A process that is killed while it writes, or a full disk, leaves the file that was there before.
    """

    WRITING = '.writing'

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Raises:
            OSError: they could not be written; says that nothing was lost.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f'.{path.name}{self.WRITING}')
        try:
            with temporary.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            reason = f'{error.strerror}; it was not written, and the checkpoints before it are as they were'
            raise OSError(error.errno, reason, str(path)) from error


register_backend('atomic', AtomicLocalBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """``CheckpointHook`` that a kill or a full disk cannot rob of a checkpoint.

    Files appear whole or not at all (:class:`AtomicLocalBackend`), and what ``max_keep_ckpts`` or a new best makes
    superfluous is removed after the new file is there, not before. Arguments as for
    :class:`mmengine.hooks.CheckpointHook`; with a remote ``out_dir``, or ``backend_args``, MMEngine's backend writes.
    """

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        if backend_args is None and '://' not in str(kwargs.get('out_dir') or ''):
            backend_args = ATOMIC
        super().__init__(*args, backend_args=backend_args, **kwargs)
        self._removals: list[str] | None = None

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process() and self.backend_args == ATOMIC:
            for left_over in Path(self.out_dir).glob(f'.*{AtomicLocalBackend.WRITING}'):
                left_over.unlink()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removals_at_the_end():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removals_at_the_end():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removals_at_the_end(self) -> Iterator[None]:
        if self._removals is not None:  # saving the best saves the last one again
            yield
            return
        self._removals = []
        self.file_backend.remove = self._removals.append
        try:
            yield
            removals = self._removals
        finally:
            self._removals = None
            del self.file_backend.remove
        kept = {self.last_ckpt, getattr(self, 'best_ckpt_path', None)}
        for path in dict.fromkeys(removals):
            if path not in kept and self.file_backend.isfile(path):
                self.file_backend.remove(path)


def why_incomplete(path: str | Path) -> str | None:
    """What is wrong with a checkpoint's file, or None; reads all of it and compares checksums."""
    if not zipfile.is_zipfile(path):
        return 'it is truncated, or no checkpoint'
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f'it cannot be read: {error}'
    return None if damaged is None else f'{damaged} in it is damaged'


def newest_complete_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint of a work directory that has come furthest, or None; the best ones do not count.

    Incomplete ones are passed over with a warning that names them. A complete one that cannot be loaded safely is an
    error: going back behind it without a word would lose what it holds.

    Raises:
        pickle.UnpicklingError: a checkpoint holds what PyTorch's safe loading refuses.
    """
    work_dir = Path(work_dir)
    folders = {work_dir}
    pointer = work_dir / 'last_checkpoint'  # MMEngine writes it; checkpoints may lie elsewhere (out_dir)
    if pointer.is_file() and (target := pointer.read_text().strip()):
        folders.add(Path(target).parent)
    paths = [path for folder in folders for path in sorted(folder.glob('*.pth')) if not path.name.startswith('best_')]
    damaged = []
    progress = {}
    for path in paths:
        try:
            # Memory-mapped: only what is looked at is read. A truncated file has no directory and fails at once.
            meta = safe_load(path, map_location='cpu', mmap=True).get('meta', {})
        except (RuntimeError, EOFError, OSError):
            damaged.append((path, why_incomplete(path) or 'it cannot be read'))
            continue
        if 'iter' in meta:  # else published weights, or another program's
            progress[path] = (meta['iter'], path.stat().st_mtime_ns)
    chosen = None
    for path in sorted(progress, key=progress.__getitem__, reverse=True):
        why = why_incomplete(path)
        if why is None:
            chosen = str(path)
            break
        damaged.append((path, why))
    for path, why in damaged:
        print_log(
            f'{path} is not a complete checkpoint: {why}. '
            + (f'Resuming from {chosen}.' if chosen else 'There is no complete one beside it.'),
            'current',
            logging.WARNING,
        )
    return chosen
