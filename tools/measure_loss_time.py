"""Seconds per training iteration and seconds in the classification loss (forward and backward), as Markdown.

python tools/measure_loss_time.py CONFIG [CONFIG ...] [--iterations 20] [--cfg-options KEY=VALUE ...]

Configs take turns, iteration by iteration, so that a machine that drifts hits all alike; medians are printed. The loss
is timed on the very inputs of each iteration, right after it, on its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn
from train import build_runner, parse_args


class TimedRun:
    """A training run that is advanced by single iterations; times are in seconds."""

    def __init__(self, config: str, work_dir: str, options: list[str]) -> None:
        arguments = ['--cfg-options', *options] if options else []
        self.runner: Runner = build_runner(parse_args([config, '--work-dir', work_dir, *arguments]))
        init_default_scope(self.runner.cfg.get('default_scope', 'mmdet'))
        self.model = self.runner.model
        self.model.init_weights()
        self.model.train()
        self.optim_wrapper = self.runner.build_optim_wrapper(self.runner.optim_wrapper)
        self.loader = self.runner.build_dataloader(self.runner.cfg.train_dataloader)
        self.batches = iter(self.loader)
        self.loss_calls: list[tuple[tuple, dict]] = []
        self.model.bbox_head.loss_cls.register_forward_pre_hook(self._remember, with_kwargs=True)
        self.iteration_times: list[float] = []
        self.loss_times: list[float] = []

    def _remember(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.loss_calls.append((args, kwargs))

    def step(self) -> None:
        """One training iteration, timed, and the calls of its classification loss, timed once more."""
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

        spent = 0.0
        for (pred, *rest), kwargs in list(self.loss_calls):
            leaf = pred.detach().requires_grad_()
            _synchronise()
            start = time.perf_counter()
            # .forward, not __call__: this call is not to be remembered.
            _total(self.model.bbox_head.loss_cls.forward(leaf, *rest, **kwargs)).backward()
            _synchronise()
            spent += time.perf_counter() - start
        self.loss_times.append(spent)


def _total(loss: Any) -> Tensor:
    return torch.stack(list(loss.values())).sum() if isinstance(loss, dict) else loss


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument('--iterations', type=int, default=20, help='measured iterations; 2 more warm up')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as for tools/train.py')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work_dir:
        runs = {config: TimedRun(config, work_dir, args.cfg_options) for config in args.configs}
        for _ in range(args.iterations + 2):
            for run in runs.values():
                run.step()
    print('| config | s per iteration | ms in the classification loss | share |')
    print('|---|---|---|---|')
    for config, run in runs.items():
        iteration, loss = median(run.iteration_times[2:]), median(run.loss_times[2:])
        print(f'| {Path(config).stem} | {iteration:.2f} | {1000 * loss:.1f} | {loss / iteration:.2%} |')


if __name__ == '__main__':
    main()
