"""Signals that ask a run to stop; all processes of the run learn of them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed


class StopSignals:
    """Remembers signals instead of ending the process, and tells all processes of the run.

    The processes communicate over a separate gloo group, so that they do not have to wait for an accelerator.

    Args:
        names: Names of the signals, such as SIGTERM.

    Raises:
        ValueError: There are no names, or a name is unknown.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names or any(name not in signal.Signals.__members__ for name in names):
            raise ValueError(f'signals must be names such as SIGTERM or SIGUSR1, got {names!r}')
        self.numbers = [signal.Signals[name] for name in names]
        self.received = False
        self._previous: dict[signal.Signals, Any] = {}
        self._group: Any = None

    def listen(self) -> None:
        """Install the handlers; all processes of the run call it."""
        self._previous = {number: signal.signal(number, self._remember) for number in self.numbers}
        self._group = dist.new_group(backend='gloo') if is_distributed() else None

    def ignore(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _remember(self, *_: object) -> None:
        self.received = True

    def received_by_any(self) -> bool:
        """Whether any process has received a signal; all processes call it."""
        return self.true_for_any(self.received)

    def true_for_any(self, value: bool) -> bool:
        """Whether ``value`` is true on any process; all processes call it."""
        if self._group is None:
            return value
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def wait_for_all(self) -> None:
        """Return when all processes have called it."""
        if self._group is not None:
            dist.barrier(self._group)
