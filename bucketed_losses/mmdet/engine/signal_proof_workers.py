"""Data loader workers that do not end when a signal is sent to the whole job.

Slurm sends a signal to every process of a job step, including the workers of data loaders. PyTorch's workers end at
SIGTERM, and a dead worker ends the run before it can save a checkpoint.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mmengine.dataset import worker_init_fn
from mmengine.registry import FUNCTIONS
from torch.utils.data import DataLoader, get_worker_info


@FUNCTIONS.register_module()
def signal_proof_worker_init_fn(worker_id: int, signals: Sequence[str] = ('SIGTERM',), seed: int | None = None) -> None:
    """``worker_init_fn`` for the config of a data loader: only the parent process can end the workers.

    For an iteration-based training loop it must be set in the config, because MMEngine starts the workers of such a
    loop before it calls any hook: ``train_dataloader = dict(worker_init_fn=dict(type='signal_proof_worker_init_fn'))``.
    As with MMEngine's own function, every worker of every process draws different random numbers.

    Args:
        worker_id: Number of the worker.
        signals: Names of the signals.
        seed: The seed of the run; by default PyTorch's seed of the worker, which depends on it.
    """
    _start_worker([signal.Signals[name] for name in signals], None, worker_id)
    info: Any = get_worker_info()
    base = info.seed - worker_id if seed is None else seed
    rank = int(os.environ.get('RANK', '0'))
    worker_init_fn(worker_id, num_workers=info.num_workers, rank=rank, seed=base % 2**31)


def is_signal_proof(loader: DataLoader) -> bool:
    """Whether the loader's workers ignore signals that do not come from their parent, now or when they start."""
    start: Any = loader.worker_init_fn
    return isinstance(start, partial) and start.func in (signal_proof_worker_init_fn, _start_worker)


def make_signal_proof(loader: DataLoader, signals: Sequence[signal.Signals]) -> None:
    """Make the loader start workers that end only if their parent ends them."""
    if not is_signal_proof(loader):
        loader.worker_init_fn = partial(_start_worker, list(signals), loader.worker_init_fn)
    atexit.unregister(end_workers)
    atexit.register(end_workers)


def _start_worker(signals: list[signal.Signals], start: Callable | None, worker_id: int) -> None:
    """React only to signals of the parent: PyTorch and Python end workers by SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    parent = os.getppid()

    def listen() -> None:
        while signal.sigwaitinfo(signals).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    if start is not None:
        start(worker_id)


def end_workers(tries: int = 5, seconds: float = 1.0) -> None:
    """End the daemonic child processes, including the workers; a process calls this when it exits.

    At exit, Python sends each of them one SIGTERM and then waits without a time limit. If a worker has not yet handled
    a SIGTERM from Slurm, the system merges the two signals and keeps only the first sender. The worker then continues,
    and its parent waits forever. Here the signal is repeated, and finally SIGKILL is sent, which cannot be lost.
    """
    children = [child for child in multiprocessing.active_children() if child.daemon]
    for _ in range(tries):
        for child in children:
            child.terminate()
        for child in children:
            child.join(seconds)
        children = [child for child in children if child.is_alive()]
        if not children:
            return
    # PyTorch's handler would raise an error for the first worker that a signal ends, and the others would not be ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()
