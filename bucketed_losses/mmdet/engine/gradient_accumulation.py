"""Gradients that MMEngine's optimizer wrappers accumulate over iterations (``accumulative_counts``)."""

from __future__ import annotations

import math
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict


def holds_gradients(optim_wrapper: Any) -> bool:
    """Whether a wrapper, or one of an ``OptimWrapperDict``, holds gradients that no update has used yet.

    A checkpoint does not contain them.
    """
    return any(not wrapper.should_update() for wrapper in _wrappers(optim_wrapper))


def iterations_between_updates(optim_wrapper: Any) -> int:
    """The number of iterations after which all wrappers have made an update in the same iteration."""
    return math.lcm(*(wrapper._accumulative_counts for wrapper in _wrappers(optim_wrapper)))


def _wrappers(optim_wrapper: Any) -> list[OptimWrapper]:
    """The wrappers that can accumulate gradients; DeepSpeed's and others do not offer a count that can be read."""
    wrappers = optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
    return [wrapper for wrapper in wrappers if isinstance(wrapper, OptimWrapper)]
