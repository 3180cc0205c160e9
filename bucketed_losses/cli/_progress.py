"""The progress bar of a test loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import Progress, TaskID

from bucketed_losses.terminal import shows_progress


class _Advance(Hook):
    """Advance a progress bar after each batch of the test loop."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self.bar, self.task = bar, task

    def after_test_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self.bar.advance(self.task)


def hide_log_lines(cfg: Config) -> None:
    """Let MMEngine print warnings and errors only, where a progress bar is shown in place of its log lines."""
    if shows_progress():
        cfg.log_level = 'WARNING'


@contextmanager
def test_progress(runner: Runner, what: str) -> Iterator[None]:
    """Show a progress bar with the time left while ``runner.test()`` runs.

    Args:
        runner: A runner with a test loop.
        what: What it does, e.g. ``'detecting objects'``.
    """
    if not shows_progress():
        yield
        return
    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        runner.register_hook(_Advance(bar, bar.add_task(what, total=len(runner.test_loop.dataloader))))
        yield
