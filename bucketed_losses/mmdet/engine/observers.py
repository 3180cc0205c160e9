"""Turns exceptions of code that only observes a run into warnings, so that they do not end the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log


class ObserverGuard:
    """Turns the exceptions of code that only observes a run into warnings, one for each task of the observer.

    If a picture or a log cannot be written, for example because the disk is full, the run continues without it. Code
    that other processes wait for (a collective operation) must not run under the guard.

    Args:
        observer: The name of the hook or the tool, for the warnings.

    Example::

        guard = ObserverGuard('MyHook')
        with guard('draw the logits'):
            draw()
    """

    def __init__(self, observer: str) -> None:
        self.observer = observer
        self._warned: set[str] = set()

    @contextmanager
    def __call__(self, task: str) -> Iterator[None]:
        """A context that runs the code of one task; ``task`` completes the sentence "MyHook could not …"."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (no exception of the observer must end the run)
            if task not in self._warned:
                self._warned.add(task)
                reason = f'{type(error).__name__}: {error}'
                print_log(
                    f'{self.observer} could not {task}: {reason}. The run continues; this warning is not repeated.',
                    'current',
                    logging.WARNING,
                )
