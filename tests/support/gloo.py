"""Run a function on several processes of one gloo group."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel


def on_processes(num: int, function: Callable, *args: Any) -> list:
    """What ``function(*args)`` returns on each of ``num`` processes; it must be importable, and a hang fails.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a process raised; the message has its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_run, (num, folder, function, args), nprocs=num)
        return [torch.load(Path(folder, f'{rank}.pt'), weights_only=True) for rank in range(num)]


def _run(rank: int, num: int, folder: str, function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=num, timeout=timedelta(seconds=120)
    )
    torch.save(function(*args), Path(folder, f'{rank}.pt'))
    dist.barrier()  # nobody closes the connection while another still uses it
    # Not destroy_process_group: in torch 2.1 it may wait for a thread of gloo that waits for Python's lock, forever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def trained_in_step(build: Callable, batch: Callable, models: list[Any]) -> list[bool]:
    """Two steps of each detector on every process; whether all processes have the same parameters after them.

    Only the first process sees objects, and DDP does not look for parameters without a gradient.

    Args:
        build: Makes a detector from an element of ``models``.
        batch: Makes the keyword arguments of a detector's forward from the detector and the objects of two images.
        models: Configs.
    """
    equal = []
    for model in models:
        detector = build(model).train()
        wrapped = DistributedDataParallel(detector, find_unused_parameters=False)
        optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(2):
            data = batch(detector, (0, 0) if dist.get_rank() else (3, 2))
            total, _ = detector.parse_losses(wrapped(**data, mode='loss'))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        mine = torch.cat([p.detach().flatten() for p in detector.parameters()])
        first = mine.clone()
        dist.broadcast(first, 0)
        equal.append(torch.equal(mine, first))
    return equal


class CountCollectives:
    """``names`` of the collectives that this process takes part in, in order, and the bytes and dtypes of each."""

    NAMES = ('all_gather', 'all_reduce', 'broadcast', 'reduce', 'barrier', 'all_gather_into_tensor', 'gather')

    def __enter__(self) -> CountCollectives:
        self.names: list[str] = []
        self.bytes: list[int] = []
        self.dtypes: list[str] = []
        self._originals = {name: getattr(dist, name) for name in self.NAMES}
        for name, original in self._originals.items():
            setattr(dist, name, self._counted(name, original))
        return self

    def _counted(self, name: str, original: Callable) -> Callable:
        def collective(*args: Any, **kwargs: Any) -> Any:
            self.names.append(name)
            tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
            self.bytes.append(sum(tensor.nbytes for tensor in tensors))
            self.dtypes.append(', '.join(str(tensor.dtype) for tensor in tensors))
            return original(*args, **kwargs)

        return collective

    def __exit__(self, *_: object) -> None:
        for name, original in self._originals.items():
            setattr(dist, name, original)
