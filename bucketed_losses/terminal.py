"""What commands show while they work; ``--quiet`` turns it off."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Turn progress off, or on again, in this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether only results, warnings and errors are shown."""
    return _quiet


def shows_progress() -> bool:
    """Whether progress bars are shown: without ``--quiet``, and only if stderr is a terminal."""
    return not _quiet and sys.stderr.isatty()


def say(text: str) -> None:
    """Print one line about the progress of the work."""
    if not _quiet:
        print(text, flush=True)


def progress_bar(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, with a progress bar that shows the time left, on stderr and only if it is a terminal.

    Args:
        items: What to go through.
        what: What is done with them, e.g. ``'drawing images'``.
        total: Their number, if ``items`` has no length.
    """
    if not shows_progress():
        yield from items
        return
    from rich.console import Console  # MMEngine needs it, the core does not
    from rich.progress import track

    yield from track(items, what, total, console=Console(file=sys.stderr), transient=True)
