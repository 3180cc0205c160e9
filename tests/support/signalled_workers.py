"""Small runs with data loader workers that get signals; tests start them as programs of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from bucketed_losses.mmdet.engine.signal_proof_workers import make_signal_proof


class Points(Dataset):
    metainfo: dict = {}

    def __init__(self, length=12):
        generator = torch.Generator().manual_seed(3)
        self.points = torch.randn(length, 2, generator=generator)

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index]


class Line(BaseModel):
    """Fits a line; ``train_step`` is MMEngine's, so gradients accumulate in the optimizer wrapper."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=(inputs @ self.weight - 1).square().mean())


def merge_signals(kind):
    """A worker that is stopped gets Slurm's SIGTERM and then its parent's; the system merges the two."""
    loader = DataLoader(Points(), batch_size=2, num_workers=1, persistent_workers=True)
    make_signal_proof(loader, [signal.SIGTERM])
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    os.kill(worker.pid, signal.SIGSTOP)
    subprocess.run(['kill', '-TERM', str(worker.pid)], check=True)
    wait = worker.join

    def go_on_and_wait(timeout=None):  # the parent waits for the worker after its own signal
        if kind == 'merged':
            os.kill(worker.pid, signal.SIGCONT)
        wait(timeout)

    worker.join = go_on_and_wait
    sys.modules[__name__].kept = batches  # to the exit, as a run does that is stopped within its loop
    sys.stdout.write('exits\n')


def survive(proof):
    """An iteration-based run whose worker gets a SIGTERM from another process."""
    from mmengine.registry import DATASETS

    import bucketed_losses.mmdet  # noqa: F401

    DATASETS.register_module(module=Points)
    loader = dict(dataset=dict(type='Points'), sampler=dict(type='InfiniteSampler'), batch_size=2, num_workers=2)
    if proof:
        loader['worker_init_fn'] = dict(type='signal_proof_worker_init_fn')

    class SignalWorkers(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 1:
                workers = [str(worker.pid) for worker in runner.train_loop.dataloader_iterator._iterator._workers]
                subprocess.run(['kill', '-TERM', *workers], check=True)

    Runner(
        model=Line(),
        work_dir=sys.argv[1],
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=40),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='PreemptionHook'), SignalWorkers()],
        randomness=dict(seed=0),
    ).train()
    sys.stdout.write('finished\n')
