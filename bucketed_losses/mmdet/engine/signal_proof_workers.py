"""Data loader workers that a signal to the whole job does not end.

Slurm sends a signal to every process of a job step, the workers of data loaders too. PyTorch's workers end at SIGTERM,
and a dead worker ends the run before it can save.
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
    """``worker_init_fn`` for the config of a data loader: workers that only their parent ends.

    An iteration-based training loop needs it in its config, because MMEngine starts the workers of such a loop before
    any hook is called: ``train_dataloader = dict(worker_init_fn=dict(type='signal_proof_worker_init_fn'))``.
    The random numbers of every worker of every process are different, as with MMEngine's own function.

    Args:
        worker_id: Number of the worker.
        signals: Names of the signals.
        seed: The seed of the run; by default PyTorch's, which follows from it.
    """
    _start_worker([signal.Signals[name] for name in signals], None, worker_id)
    info: Any = get_worker_info()
    base = info.seed - worker_id if seed is None else seed
    rank = int(os.environ.get('RANK', '0'))
    worker_init_fn(worker_id, num_workers=info.num_workers, rank=rank, seed=base % 2**31)


def is_signal_proof(loader: DataLoader) -> bool:
    """Whether the loader's workers are, or will be when they start."""
    start: Any = loader.worker_init_fn
    return isinstance(start, partial) and start.func in (signal_proof_worker_init_fn, _start_worker)


def make_signal_proof(loader: DataLoader, signals: Sequence[signal.Signals]) -> None:
    """Let the workers that the loader will start end only when their parent ends them."""
    if not is_signal_proof(loader):
        loader.worker_init_fn = partial(_start_worker, list(signals), loader.worker_init_fn)
    atexit.unregister(end_workers)
    atexit.register(end_workers)


def _start_worker(signals: list[signal.Signals], start: Callable | None, worker_id: int) -> None:
    """Obey the parent's signals alone: PyTorch and Python end workers by SIGTERM."""
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
    """End the daemonic child processes, the workers among them; a process calls it when it exits.

    Python sends each of them one SIGTERM at exit and then waits without a limit. The system merges this signal with one
    from Slurm that the worker has not taken yet, and only the first sender stays known: the worker goes on and the
    parent waits for ever. Here the signal is repeated, and SIGKILL, which cannot be lost, comes last.
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
    # PyTorch's handler would raise at the first worker that a signal has ended, and leave the others.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()
