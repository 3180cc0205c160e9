"""Seconds per training iteration and seconds in the classification losses (forward and backward), as Markdown.

python tools/measure_loss_time.py CONFIG [CONFIG ...] [--iterations 20] [--with-loop] [--json FILE]
                                  [--cfg-options KEY=VALUE ...]

Configs take turns, iteration by iteration, so that a machine that drifts hits all alike; medians are printed. The
losses of all heads (RPN and every stage included) are timed on the very inputs of each iteration, right after it, on
their own. ``--with-loop`` times the loop over positives of tests/loop_over_positives.py on the same inputs, and adds
what an iteration would take with it; that is for configs whose losses are AP, BAP, RS or BRS Loss. ``--json`` also
writes what was measured to a file.
"""

from __future__ import annotations

import argparse
import json
import sys
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

from bucketed_losses.errors import UserError, one_line_errors
from bucketed_losses.mmdet.models.losses import APLoss, RSLoss
from bucketed_losses.mmdet.models.losses.ranking_losses import entry_targets

TESTS = Path(__file__).resolve().parents[1] / 'tests'


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
        raise UserError(f'--with-loop is for AP, BAP, RS and BRS Loss; there is no loop for {type(module).__name__}')
    from loop_over_positives import loop_over_positives

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


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument('--iterations', type=int, default=20, help='measured iterations; 2 more warm up')
    parser.add_argument('--with-loop', action='store_true', help='time the loop over positives beside ours')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the medians there, in seconds')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as for tools/train.py')
    args = parser.parse_args(argv)
    if args.with_loop:
        sys.path.insert(0, str(TESTS))
    with tempfile.TemporaryDirectory() as work_dir:
        runs = {config: TimedRun(config, work_dir, args.cfg_options) for config in args.configs}
        for _ in range(args.iterations + 2):
            for run in runs.values():
                run.step(args.with_loop)
    medians: dict[str, dict[str, Any]] = {
        config: dict(
            seconds_per_iteration=median(run.iteration_times[2:]),
            seconds_in_losses=median(run.loss_times[2:]),
            seconds_by_loops=median(run.loop_times[2:]) if args.with_loop else None,
            iterations_per_epoch=len(run.loader),
        )
        for config, run in runs.items()
    }
    if args.json:
        args.json.write_text(json.dumps(medians, indent=1))
    columns = ['config', 's per iteration', 'ms in the classification losses', 'share']
    if args.with_loop:
        columns += ['ms by loops', 's per iteration with loops', 'share of loops']
    print('| ' + ' | '.join(columns) + ' |')
    print('|---' * len(columns) + '|')
    for config, measured in medians.items():
        iteration, loss = measured['seconds_per_iteration'], measured['seconds_in_losses']
        cells = [Path(config).stem, f'{iteration:.2f}', f'{1000 * loss:.1f}', f'{loss / iteration:.2%}']
        if args.with_loop:
            loop = measured['seconds_by_loops']
            slow = iteration - loss + loop
            cells += [f'{1000 * loop:.0f}', f'{slow:.2f}', f'{loop / slow:.2%}']
        print('| ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main()
