"""Checkpoints that are written completely or not at all."""

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
    """MMEngine's backend for local files; it writes a file under a temporary name and renames it when it is complete.

    If the process is killed while it writes, or the disk is full, the previous file of that name remains.
    """

    WRITING = '.writing'

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Raises:
            OSError: They could not be written. The message says that earlier checkpoints are not affected.
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
            reason = f'{error.strerror}; it was not written, and earlier checkpoints are unchanged'
            raise OSError(error.errno, reason, str(path)) from error


register_backend('atomic', AtomicLocalBackend, force=True)


class DeferredRemovals:
    """A storage backend that can postpone the removal of files and folders. All other calls go to another backend.

    Args:
        backend: The other backend, one of MMEngine's or a user's own.
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
        """Postpone removals to the end of this context; if the context raises an error, nothing is removed.

        Args:
            kept: Is called at the end and returns the paths that must not be removed.
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
    """``CheckpointHook`` that loses no checkpoint if the process is killed or the disk is full.

    Files are written completely or not at all (:class:`AtomicLocalBackend`). Checkpoints that ``max_keep_ckpts`` or a
    new best checkpoint makes superfluous are removed after the new file is written, not before. Arguments are those of
    :class:`mmengine.hooks.CheckpointHook`; with a remote ``out_dir`` or with ``backend_args``, MMEngine's backend
    writes the files.
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
        """The newest checkpoint and the best ones, which may have the path of a file that is marked for removal."""
        return {
            self.last_ckpt,
            getattr(self, 'best_ckpt_path', None),
            *getattr(self, 'best_ckpt_path_dict', {}).values(),
        }
