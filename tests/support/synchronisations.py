"""Counting how often the host would wait for an accelerator."""

from __future__ import annotations

from operations import is_wait
from torch.utils._python_dispatch import TorchDispatchMode


class CountSynchronisations(TorchDispatchMode):
    """Counts the operations that make the host wait on an accelerator: those whose result or shape it must read."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += is_wait(func, args)
        return func(*args, **(kwargs or {}))
