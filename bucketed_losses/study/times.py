"""Seconds per training iteration, and seconds in the classification losses (forward and backward)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.config import enter_scope
from bucketed_losses.mmdet.engine.runner import apply_options, parse_options, runner_from
from bucketed_losses.mmdet.models.losses import APLoss, RSLoss
from bucketed_losses.mmdet.models.losses.ranking_losses import entry_targets

from .loop_over_positives import loop_over_positives
from .store import write_json

WARM_UP = 2


class TimedRun:
    """A training run that is advanced by single iterations; times are in seconds.

    Args:
        config: File of the config.
        work_dir: Folder for logs.
        options: Settings of the config to change, written KEY=VALUE.
    """

    def __init__(self, config: str, work_dir: str, options: Sequence[str] = ()) -> None:
        cfg = Config.fromfile(config)
        cfg.launcher = 'none'
        cfg.work_dir = work_dir
        apply_options(cfg, parse_options(options))
        self.runner: Runner = runner_from(cfg, ('train_dataloader', 'val_dataloader'))
        enter_scope(self.runner.cfg)
        self.model = self.runner.model
        self.model.init_weights()
        self.model.train()
        self.optim_wrapper = self.runner.build_optim_wrapper(self.runner.optim_wrapper)
        self.loader = self.runner.build_dataloader(self.runner.cfg.train_dataloader)
        self.batches = iter(self.loader)
        self.loss_calls: list[tuple[nn.Module, tuple, dict]] = []
        for name, module in self.model.named_modules():
            if name.rpartition('.')[2] == 'loss_cls':
                module.register_forward_pre_hook(self._remember, with_kwargs=True)
        self.iteration_times: list[float] = []
        self.loss_times: list[float] = []
        self.loop_times: list[float] = []

    def _remember(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.loss_calls.append((module, args, kwargs))

    def step(self, with_loop: bool = False) -> None:
        """One training iteration, timed, and the calls of its classification losses, timed once more."""
        try:
            batch = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        self.loss_calls.clear()
        start = time.perf_counter()
        self.model.train_step(batch, self.optim_wrapper)
        _synchronise()
        self.iteration_times.append(time.perf_counter() - start)

        spent = looped = 0.0
        for module, (pred, *rest), kwargs in list(self.loss_calls):
            leaf = pred.detach().requires_grad_()
            # aLRP Loss is given box losses, too, whose graph is used up.
            kwargs = {name: _leaf(value) for name, value in kwargs.items()}
            _synchronise()
            start = time.perf_counter()
            # .forward, not __call__: this call is not to be remembered.
            _total(module.forward(leaf, *rest, **kwargs)).backward()
            _synchronise()
            spent += time.perf_counter() - start
            if with_loop:
                looped += _time_of_loop(module, pred.detach(), *rest, **kwargs)
        self.loss_times.append(spent)
        self.loop_times.append(looped)


def targets_of_call(pred: Tensor, target: Any, weight: Tensor | None = None, **kwargs: Any) -> Tensor:
    """The targets of one remembered call of a ranking loss, one per entry of ``pred``."""
    labels, ious = target if isinstance(target, (tuple, list)) else (target, None)
    return entry_targets(pred, labels, ious, weight)


def _time_of_loop(module: nn.Module, pred: Tensor, *rest: Any, **kwargs: Any) -> float:
    """Seconds of the published loop over positives for one call of a ranking loss."""
    if not isinstance(module, (APLoss, RSLoss)):  # the bucketed ones are their subclasses
        raise UserError(
            f'the loop over positives is for AP, BAP, RS and BRS Loss; there is no loop for {type(module).__name__}'
        )
    start = time.perf_counter()
    targets = targets_of_call(pred, *rest, **kwargs)
    loop_over_positives(pred.flatten(), targets.flatten(), module.delta, sort=module.needs_ious)
    _synchronise()
    return time.perf_counter() - start


def _leaf(value: Any) -> Any:
    needs_grad = isinstance(value, Tensor) and value.requires_grad
    return value.detach().requires_grad_() if needs_grad else value


def _total(loss: Any) -> Tensor:
    # PAA also calls its focal loss for a value per anchor.
    return torch.stack(list(loss.values())).sum() if isinstance(loss, dict) else loss.sum()


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_times(
    configs: Sequence[str], iterations: int, with_loop: bool = False, options: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Median times of the training iterations of several configs, in seconds.

    The configs take turns, iteration by iteration, so that a change in the machine's speed affects all of them alike.
    The losses of all heads (RPN and every stage included) are timed on the very inputs of each iteration, right after
    it, on their own.

    Args:
        configs: Files of the configs.
        iterations: Iterations that are measured, after two that are not.
        with_loop: Also time the published loop over positives on the same inputs.
        options: Settings of all configs to change, written KEY=VALUE.

    Returns:
        For each config ``seconds_per_iteration``, ``seconds_in_losses``, ``seconds_by_loops`` (None without
        ``with_loop``) and ``iterations_per_epoch``.

    Raises:
        UserError: ``with_loop`` and a loss that is not AP, BAP, RS or BRS Loss.
    """
    with tempfile.TemporaryDirectory() as work_dir:
        runs = {config: TimedRun(config, work_dir, options) for config in configs}
        for _ in range(iterations + WARM_UP):
            for run in runs.values():
                run.step(with_loop)
    return {
        config: dict(
            seconds_per_iteration=median(run.iteration_times[WARM_UP:]),
            seconds_in_losses=median(run.loss_times[WARM_UP:]),
            seconds_by_loops=median(run.loop_times[WARM_UP:]) if with_loop else None,
            iterations_per_epoch=len(run.loader),
        )
        for config, run in runs.items()
    }


def write_times(out: str, configs: Sequence[str], iterations: int, with_loop: bool = False) -> None:
    """Write the times of :func:`measure_times` to a JSON file."""
    measured = measure_times(configs, iterations, with_loop)
    write_json(Path(out), measured)
