"""Time and memory of one call on a device, with torch alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.profiler import profile


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


def peak_bytes_of(run: Callable[[], Any], device: torch.device) -> int:
    """What a call allocates on top of what is there before, at the highest: by CUDA's allocator, or the profiler."""
    if device.type == 'cuda':
        return cuda_peak_bytes(run)
    with profile(use_kineto=True, profile_memory=True) as profiler:
        run()
    sizes = _allocations(profiler.kineto_results.experimental_event_tree())
    return max(itertools.accumulate((size for _, size in sorted(sizes)), initial=0))


def _allocations(events: list[Any]) -> Iterator[tuple[int, int]]:
    """Time and size (negative where memory is freed) of every allocation in a profiler's tree of events."""
    stack = list(events)
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.name == '[memory]':
            yield event.start_time_ns, event.extra_fields.alloc_size
