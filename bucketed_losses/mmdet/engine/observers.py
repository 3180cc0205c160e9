"""What only observes a run must not end it: its exceptions become warnings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log


class ObserverGuard:
    """Turns the exceptions of code that only observes a run into warnings, one for each task of the observer.

    A drawing or a log that fails, on a full disk for example, then costs the drawing and not the training. Code that
    other processes wait for (a collective operation) does not belong under the guard.

    Args:
        observer: The name of the hook or the tool, for the warnings.

    Example:
        >>> guard = ObserverGuard('MyHook')
        >>> with guard('draw the logits'):
        ...     draw()
    """

    def __init__(self, observer: str) -> None:
        self.observer = observer
        self._warned: set[str] = set()

    @contextmanager
    def __call__(self, task: str) -> Iterator[None]:
        """A context that runs the code of one task; ``task`` completes the sentence "MyHook could not …"."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever the observer raises, the run is worth more)
            if task not in self._warned:
                self._warned.add(task)
                reason = f'{type(error).__name__}: {error}'
                print_log(
                    f'{self.observer} could not {task}: {reason}. The run goes on; this warning is not repeated.',
                    'current',
                    logging.WARNING,
                )
