"""Objects that would run code, or change torch, if a checkpoint with them were unpickled without restrictions."""

from __future__ import annotations

import os

import torch


class Malicious:
    def __reduce__(self):
        return os.system, ('touch executed',)


class Prying:
    """Asks for an attribute that would give access to the whole process."""

    def __reduce__(self):
        from mmengine.logging import HistoryBuffer

        return getattr, (HistoryBuffer, '__init__')


class SetsAttributes:
    """Gives a function of torch's that every checkpoint may name a new attribute."""

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (), {'planted': True}
