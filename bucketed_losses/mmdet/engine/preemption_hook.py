"""Stop at a signal such that nothing is lost: Slurm's warning before a time limit or a preemption."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from .checkpoints import ATOMIC

_PLACE = 'preempted_at'


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a signal to any process, all finish their iteration, save ``preempted.pth`` and exit with 0.

    ``--resume`` goes on with the next iteration. In an epoch-based run the batches that were trained on are loaded and
    passed over, as MMEngine does itself in iteration-based ones, so that random augmentations go on where they were;
    with ``EpochSeedHook``, no persistent workers, and a model that draws no random numbers, the run ends with the
    weights of one that was never stopped. Validation is not interrupted: the warning must come early enough for one.
    The processes agree over a gloo group of their own, so that no accelerator is waited for.

    torchrun passes SIGTERM on, gives its processes 30 seconds, and ends with 1 itself; srun ends with 0.

    Args:
        signals: Names of the signals to obey.
        interval: Iterations between two looks at the flag; a look is one all-reduce of one number.
        requeue: Let the first process ask Slurm to requeue the job (``scontrol requeue``), for a batch script that
            starts with ``--resume``.
    """

    priority = 'LOWEST'  # after the schedulers' step and the checkpoint of an epoch
    FILENAME = 'preempted.pth'

    def __init__(self, signals: Sequence[str] = ('SIGTERM',), interval: int = 1, requeue: bool = False) -> None:
        unknown = [name for name in signals if not hasattr(signal, name)]
        if unknown or not signals:
            raise ValueError(f'PreemptionHook: signals must be names such as SIGTERM or SIGUSR1, got {signals!r}')
        if interval < 1:
            raise ValueError(f'PreemptionHook: interval must be at least 1, got {interval}')
        self.signals = [signal.Signals[name] for name in signals]
        self.interval = interval
        self.requeue = requeue
        self.signalled = False
        self._previous: dict[signal.Signals, Any] = {}
        self._group: Any = None

    def before_train(self, runner: Runner) -> None:
        self._previous = {number: signal.signal(number, self._remember) for number in self.signals}
        for loop in (runner.train_loop, runner.val_loop):
            # Slurm signals every process of a step, the workers too, and a dead worker ends the run.
            if loop is not None and isinstance(loop.dataloader, DataLoader):
                loop.dataloader.worker_init_fn = partial(
                    _start_deaf_worker, self.signals, loop.dataloader.worker_init_fn
                )
        self._group = dist.new_group(backend='gloo') if is_distributed() else None

    def _remember(self, *_: object) -> None:
        self.signalled = True

    def before_train_epoch(self, runner: Runner) -> None:
        place = runner.message_hub.runtime_info.pop(_PLACE, None)
        loop = runner.train_loop
        if place is None or not isinstance(loop, EpochBasedTrainLoop):  # MMEngine's other loop does it itself
            return
        epoch, done, length = place
        if (epoch, length) != (runner.epoch, len(loop.dataloader)):
            runner.logger.warning(
                f'The run was stopped after {done} of {length} iterations of epoch {epoch + 1}; the data loader has '
                f'{len(loop.dataloader)} now, so this epoch is started over.'
            )
            loop._iter = runner.epoch * len(loop.dataloader)
            return
        runner.logger.info(f'Passing over the {done} batches of epoch {epoch + 1} that were trained on.')
        loop.dataloader = _Rest(loop.dataloader, done)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval) and self._anyone_signalled():
            self._stop(runner)

    def _anyone_signalled(self) -> bool:
        if self._group is None:
            return self.signalled
        flag = torch.tensor(int(self.signalled))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def _stop(self, runner: Runner) -> None:
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            length = len(loop.dataloader)
            done = runner.iter + 1 - runner.epoch * length
            runner.message_hub.update_info(_PLACE, (runner.epoch, done, length))
        runner.save_checkpoint(runner.work_dir, self.FILENAME, by_epoch=False, backend_args=ATOMIC)
        if is_main_process():
            path = Path(runner.work_dir, self.FILENAME)
            Path(runner.work_dir, 'last_checkpoint').write_text(str(path))
            print_log(
                f'Stopped by a signal after iteration {runner.iter + 1}; --resume goes on from {path}.', 'current'
            )
        if self._group is not None:
            dist.barrier(self._group)  # nobody leaves before the file is there
        if self.requeue and is_main_process():
            _requeue()
        if self._group is not None:
            dist.destroy_process_group()
        raise SystemExit(0)

    def after_train_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if isinstance(runner.train_loop.dataloader, _Rest):
            runner.train_loop.dataloader = runner.train_loop.dataloader.loader

    def after_train(self, runner: Runner) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if is_main_process():
            Path(runner.work_dir, self.FILENAME).unlink(missing_ok=True)


class _Rest:
    """A data loader whose first ``done`` batches are loaded and passed over."""

    def __init__(self, loader: DataLoader, done: int) -> None:
        self.loader = loader
        self.done = done

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        for _ in range(self.done):
            next(batches)
        yield from batches

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _start_deaf_worker(signals: list[signal.Signals], start: Callable | None, worker_id: int) -> None:
    """Obey the parent's signals alone: it ends its workers with SIGTERM when it exits, and waits for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    parent = os.getppid()

    def listen() -> None:
        while signal.sigwaitinfo(signals).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    if start is not None:
        start(worker_id)


def _requeue() -> None:
    job = os.environ.get('SLURM_JOB_ID')
    if job is None:
        print_log('requeue=True, but this is no Slurm job: SLURM_JOB_ID is not set.', 'current', logging.WARNING)
        return
    try:
        subprocess.run(['scontrol', 'requeue', job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, 'stderr', None) or error
        print_log(f'Job {job} was saved but not requeued: {reason}', 'current', logging.WARNING)
