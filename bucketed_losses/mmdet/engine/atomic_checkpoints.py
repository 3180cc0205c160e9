"""Checkpoints that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

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


class DeferredRemovals:
    """A storage backend that can put off the removal of files and folders; everything else it passes on.

    Args:
        backend: The backend, one of MMEngine's or a user's own.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._waiting: dict[str, Callable[[str], None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, filepath: str) -> None:
        """Remove a file, now or at the end of :meth:`deferred`."""
        self._remove(str(filepath), self._backend.remove)

    def rmtree(self, dir_path: str) -> None:
        """Remove a folder, now or at the end of :meth:`deferred`."""
        self._remove(str(dir_path), self._backend.rmtree)

    def _remove(self, path: str, remove: Callable[[str], None]) -> None:
        if self._waiting is None:
            remove(path)
        else:
            self._waiting[path] = remove

    @contextmanager
    def deferred(self, kept: Callable[[], Collection[Any]]) -> Iterator[None]:
        """Put removals off to the end of this context; after an error in it nothing is removed.

        Args:
            kept: Gives at the end the paths that must stay although their removal was asked for.
        """
        if self._waiting is not None:  # inside another such context
            yield
            return
        self._waiting = {}
        try:
            yield
            waiting = self._waiting
        finally:
            self._waiting = None
        stay = set(kept())
        for path, remove in waiting.items():
            if path not in stay and (self._backend.isfile(path) or self._backend.isdir(path)):
                remove(path)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """``CheckpointHook`` that a kill or a full disk cannot rob of a checkpoint.

    Files appear whole or not at all (:class:`AtomicLocalBackend`), and what ``max_keep_ckpts`` or a new best makes
    superfluous is removed after the new file is there, not before. Arguments as for
    :class:`mmengine.hooks.CheckpointHook`; with a remote ``out_dir``, or ``backend_args``, MMEngine's backend writes.
    """

    file_backend: Any

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        if backend_args is None and '://' not in str(kwargs.get('out_dir') or ''):
            backend_args = ATOMIC
        super().__init__(*args, backend_args=backend_args, **kwargs)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.file_backend = DeferredRemovals(self.file_backend)
        if is_main_process() and self.backend_args == ATOMIC:
            for left_over in Path(self.out_dir).glob(f'.*{AtomicLocalBackend.WRITING}'):
                left_over.unlink()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self.file_backend.deferred(self._kept):
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self.file_backend.deferred(self._kept):
            super()._save_best_checkpoint(runner, metrics)

    def _kept(self) -> set[Any]:
        """The newest checkpoint and the best ones: one may have the path of a file that was to be removed."""
        return {
            self.last_ckpt,
            getattr(self, 'best_ckpt_path', None),
            *getattr(self, 'best_ckpt_path_dict', {}).values(),
        }
