"""Stops a run at a signal without losing progress, for example at Slurm's warning before a time limit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.utils import digit_version
from torch.utils.data import DataLoader

from .atomic_checkpoints import ATOMIC
from .gradient_accumulation import holds_gradients, iterations_between_updates
from .observers import ObserverGuard
from .resumable_epoch_loop import PassesOverBatches, resumable
from .sampler_seed import SamplerSeed
from .signal_proof_workers import is_signal_proof, make_signal_proof
from .slurm import requeue
from .stop_signals import StopSignals

_PLACE = 'preempted_at'
# The wrappers of an OptimWrapperDict may never update in the same iteration. The run must stop in this case too.
_PATIENCE = 10


@HOOKS.register_module()
class PreemptionHook(Hook):
    """When any process gets a signal, all processes finish their iteration, save ``preempted.pth`` and exit with 0.

    While gradients are accumulated (``accumulative_counts``), the run continues until the next update, because a
    checkpoint does not contain gradients.

    ``--resume`` continues with the next iteration. In an epoch-based run, the batches that were already trained on are
    loaded and skipped, so that random augmentations continue where they were; MMEngine itself does this in
    iteration-based runs. With ``EpochSeedHook``, no persistent workers, and a model that draws no random numbers, the
    run ends with the same weights as a run that was never stopped. Validation is not interrupted, so the signal must
    come early enough for a validation to finish.

    torchrun forwards SIGTERM, gives its processes 30 seconds, and exits with 1; srun exits with 0.

    Args:
        signals: Names of the signals to react to.
        interval: Number of iterations between two checks for signals; a check is one all-reduce of one number.
        requeue: Let the first process ask Slurm to requeue the job (``scontrol requeue``), for a batch script that
            starts the run with ``--resume``.
    """

    priority = 'LOWEST'  # after the schedulers' step and the checkpoint of an epoch
    FILENAME = 'preempted.pth'

    def __init__(self, signals: Sequence[str] = ('SIGTERM',), interval: int = 1, requeue: bool = False) -> None:
        try:
            self.signals = StopSignals(signals)
        except ValueError as error:
            raise ValueError(f'PreemptionHook: {error}') from error
        if interval < 1:
            raise ValueError(f'PreemptionHook: interval must be at least 1, got {interval}')
        self.interval = interval
        self.requeue = requeue
        self._stops_since: int | None = None  # the iteration at which the processes agreed to stop
        self._guard = ObserverGuard(type(self).__name__)
        self._sampler_seed = SamplerSeed()

    def before_run(self, runner: Runner) -> None:
        self._sampler_seed.before_run(runner)
        if isinstance(runner._train_loop, EpochBasedTrainLoop):  # otherwise a test, or MMEngine's iteration-based loop
            runner._train_loop = resumable(runner._train_loop)

    def before_train(self, runner: Runner) -> None:
        self.signals.listen()
        self._stops_since = None
        self._sampler_seed.before_train(runner)
        loops = [loop for loop in (runner.train_loop, runner.val_loop) if loop is not None]
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            # The workers of this loop are already running.
            loader = runner.train_loop.dataloader
            if isinstance(loader, DataLoader) and loader.num_workers and not is_signal_proof(loader):
                print_log(
                    'PreemptionHook: a signal that reaches the workers of the data loader, as signals of Slurm do, '
                    'ends this iteration-based run before it can save. Set train_dataloader.worker_init_fn='
                    "dict(type='signal_proof_worker_init_fn').",
                    'current',
                    logging.WARNING,
                )
        for loop in loops:
            if isinstance(loop.dataloader, DataLoader):
                make_signal_proof(loop.dataloader, self.signals.numbers)

    def before_train_epoch(self, runner: Runner) -> None:
        place = runner.message_hub.runtime_info.pop(_PLACE, None)
        loop: Any = runner.train_loop
        if place is None or not isinstance(loop, PassesOverBatches):  # MMEngine's other loop skips batches itself
            return
        epoch, done, length = place
        if (epoch, length) != (runner.epoch, len(loop.dataloader)):
            runner.logger.warning(
                f'The run was stopped after {done} of {length} iterations of epoch {epoch + 1}. The data loader now '
                f'has {len(loop.dataloader)} iterations per epoch, so this epoch starts again from the beginning.'
            )
            loop._iter = runner.epoch * len(loop.dataloader)
            return
        runner.logger.info(f'Skipping the {done} batches of epoch {epoch + 1} that were already used in training.')
        loop.passed_over = done

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        if self._stops_since is None:
            if not self.every_n_train_iters(runner, self.interval) or not self.signals.received_by_any():
                return
            self._stops_since = runner.iter
        if not self.signals.true_for_any(holds_gradients(runner.optim_wrapper)):
            self._stop(runner)
        elif runner.iter - self._stops_since >= _PATIENCE * iterations_between_updates(runner.optim_wrapper):
            print_log(
                'PreemptionHook: the optimizers never update in the same iteration, so accumulated gradients are lost. '
                'To resume exactly, give all optimizers the same accumulative_counts.',
                'current',
                logging.WARNING,
            )
            self._stop(runner)

    def _stop(self, runner: Runner) -> None:
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            length = len(loop.dataloader)
            done = runner.iter + 1 - runner.epoch * length
            runner.message_hub.update_info(_PLACE, (runner.epoch, done, length))
        runner.save_checkpoint(runner.work_dir, self.FILENAME, by_epoch=False, backend_args=ATOMIC)
        if is_main_process():
            path = Path(runner.work_dir, self.FILENAME)
            with self._guard('write last_checkpoint'):  # --resume finds the file without it
                Path(runner.work_dir, 'last_checkpoint').write_text(str(path))
            print_log(
                f'Stopped by a signal after iteration {runner.iter + 1}; --resume continues from {path}.', 'current'
            )
        self.signals.wait_for_all()  # no process exits before the file is written
        if self.requeue and is_main_process():
            requeue()
        # torch asks for it since 2.4. In torch 2.1 it may wait forever for a thread of gloo that needs Python's lock.
        if is_distributed() and digit_version(torch.__version__) >= digit_version('2.4'):
            dist.destroy_process_group()
        raise SystemExit(0)

    def after_train(self, runner: Runner) -> None:
        self.signals.ignore()
        if is_main_process():
            with self._guard(f'remove {self.FILENAME}'):
                Path(runner.work_dir, self.FILENAME).unlink(missing_ok=True)
