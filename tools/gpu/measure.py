"""Times, memory and launches of the losses on one device, with torch alone.

The positives are given to ours. Focal loss, the loop over positives and the P x P matrices are those of
``tools/benchmarks``, in plain PyTorch.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'benchmarks'))

from measuring import cuda_peak_bytes, seconds_of
from operations import CountOperations
from published_algorithms.bucketed_by_matrices import bucketed_by_matrices
from published_algorithms.loop_over_positives import loop_over_positives
from synthetic_data import synthetic_logits
from usual_losses import focal_loss

from bucketed_losses import functional
from bucketed_losses.core.devices import as_on_an_accelerator

SIZES = ((10_000, 100), (100_000, 1000), (1_000_000, 1000), (1_000_000, 10_000), (10_000_000, 10_000))
"""Logits and positives."""
GRAPH = 'BRS, CUDA graph'
OTHER_WAYS_AT = (1_000_000, 1000)
"""Where BRS Loss is also compiled, and recorded in a CUDA graph."""
MOST_LOOPED, MOST_IN_MATRICES = 2000, 10_000
SETS, SET_LOGITS, SET_POSITIVES = 19, 48_000, 14
"""The sets of queries of BRS-DETR: two images with 300 queries and 80 classes, and seven objects each."""
COLUMNS = ('logits', 'positives', 'loss', 'milliseconds', 'peak_megabytes', 'launches', 'to_focal', 'note')


def way(device: torch.device) -> AbstractContextManager[None]:
    """The way of an accelerator, on a CPU too."""
    return as_on_an_accelerator() if device.type == 'cpu' else nullcontext()


def calls(logits: Tensor, targets: Tensor) -> dict[str, Callable[[], Any]]:
    """One forward and backward pass of each loss; focal loss first."""
    leaf = logits.requires_grad_()
    positives = (targets > 0).nonzero().squeeze(1)
    is_positive = (targets > 0).to(logits.dtype)

    def ours(loss: Callable[..., Any]) -> Callable[[], None]:
        def run() -> None:
            result = loss(leaf, targets, positives=positives)
            (result.total if isinstance(result, functional.RankSort) else result).backward()
            leaf.grad = None

        return run

    def run_focal() -> None:
        focal_loss(leaf, is_positive).backward()
        leaf.grad = None

    plain = logits.detach()
    chosen: dict[str, Callable[[], Any]] = {
        'focal': run_focal,
        'AP': ours(functional.ap_loss),
        'BAP': ours(functional.bucketed_ap_loss),
        'RS': ours(functional.rs_loss),
        'BRS': ours(functional.bucketed_rs_loss),
    }
    if len(positives) <= MOST_IN_MATRICES:
        chosen['BRS by matrices'] = lambda: bucketed_by_matrices(plain, targets, 0.5, True)
    if len(positives) <= MOST_LOOPED:
        chosen['RS by loop'] = lambda: loop_over_positives(plain, targets, 0.5, True)
    return chosen


def other_ways(logits: Tensor, targets: Tensor) -> dict[str, Callable[[], Any]]:
    """BRS Loss compiled by inductor, and as the replay of a CUDA graph; on CUDA only."""
    leaf = logits.requires_grad_()
    positives = (targets > 0).nonzero().squeeze(1)

    def value(leaf: Tensor, targets: Tensor, positives: Tensor) -> Tensor:
        return functional.bucketed_rs_loss(leaf, targets, positives=positives).total

    def run(value: Callable[..., Tensor]) -> None:
        value(leaf, targets, positives).backward()

    @cache
    def compiled() -> Callable[..., Tensor]:
        return torch.compile(value, fullgraph=True, dynamic=True)

    def run_compiled() -> None:
        run(compiled())
        leaf.grad = None

    @cache
    def graph() -> torch.cuda.CUDAGraph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run(value)
            leaf.grad = None
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            run(value)
        return recorded

    return {'BRS, compiled': run_compiled, GRAPH: lambda: graph().replay()}


def many_sets(device: torch.device) -> dict[str, Callable[[], Any]]:
    """BRS Loss of the query sets of BRS-DETR, in one call and in one call for each set."""
    sets = [synthetic_logits(SET_LOGITS, SET_POSITIVES, 'paper', seed) for seed in range(SETS)]
    logits, targets = (torch.cat(parts).to(device) for parts in zip(*sets, strict=True))
    leaf = logits.requires_grad_()
    positives = (targets > 0).nonzero().squeeze(1)
    groups = torch.arange(SETS, device=device).repeat_interleave(SET_LOGITS)
    rows = [(part > 0).nonzero().squeeze(1) for part in targets.split(SET_LOGITS)]

    def one_call() -> None:
        loss = functional.bucketed_rs_loss(leaf, targets, positives=positives, groups=groups, num_groups=SETS)
        loss.total.sum().backward()
        leaf.grad = None

    def call_for_each() -> None:
        parts = zip(leaf.split(SET_LOGITS), targets.split(SET_LOGITS), rows, strict=True)
        total = sum(functional.bucketed_rs_loss(part, own, positives=index).total for part, own, index in parts)
        assert isinstance(total, Tensor)
        total.backward()
        leaf.grad = None

    return {f'BRS of {SETS} sets, one call': one_call, f'BRS of {SETS} sets, {SETS} calls': call_for_each}


def launches(run: Callable[[], Any], device: torch.device) -> int:
    """Kernels and copies by the profiler on CUDA; operations, views left out, on a CPU."""
    if device.type != 'cuda':
        with CountOperations() as counted:
            run()
        return len(counted.names)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())


def measure(device: torch.device, sizes: Any, repeats: int, deadline: float) -> Iterator[dict[str, Any]]:
    """Rows of :data:`COLUMNS`; what the deadline (of ``time.monotonic``) leaves no time for has a note."""
    for num_logits, num_positives in sizes:
        logits, targets = (tensor.to(device) for tensor in synthetic_logits(num_logits, num_positives, 'paper'))
        runs = calls(logits, targets)
        if device.type == 'cuda' and (num_logits, num_positives) == OTHER_WAYS_AT:
            runs |= other_ways(logits.detach(), targets)
        focal_milliseconds = None
        for name, run in runs.items():
            row = dict(logits=num_logits, positives=num_positives, loss=name)
            row |= _row(name, run, device, repeats, deadline)
            if name == 'focal':
                focal_milliseconds = row.get('milliseconds')
            if focal_milliseconds and 'milliseconds' in row:
                row |= dict(to_focal=round(row['milliseconds'] / focal_milliseconds, 2))
            yield row
    for name, run in many_sets(device).items():
        row = dict(logits=SETS * SET_LOGITS, positives=SETS * SET_POSITIVES, loss=name)
        yield row | _row(name, run, device, repeats, deadline)


def _row(name: str, run: Callable[[], Any], device: torch.device, repeats: int, deadline: float) -> dict[str, Any]:
    """Time, peak memory and launches of a call, or a note."""
    row: dict[str, Any] = {}
    try:
        if time.monotonic() > deadline:
            raise TimeoutError('no time left')
        with way(device):
            run()  # loads kernels; a compiler's and a graph's first calls take long
            once = seconds_of(run, device)  # how long a call takes, roughly
            times = [seconds_of(run, device) for _ in range(repeats if once < 0.5 else 1)]
            row |= dict(milliseconds=round(1000 * statistics.median(times), 3))
            if device.type == 'cuda' and name != GRAPH:  # its memory was allocated when it was recorded
                row |= dict(peak_megabytes=round(cuda_peak_bytes(run) / 1e6, 1))
            if 'loop' not in name:
                row |= dict(launches=launches(run, device))
    except (RuntimeError, TimeoutError) as error:
        row |= dict(note=(str(error).splitlines() or [type(error).__name__])[0][:200])
    return row
