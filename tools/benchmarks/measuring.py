"""Time and memory of one call on a device, with torch alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call: by events on CUDA, by the clock on a CPU."""
    if device.type != 'cuda':
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def cuda_peak_bytes(run: Callable[[], Any]) -> int:
    """What a call on CUDA allocates on top of what is there before, at the highest."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
