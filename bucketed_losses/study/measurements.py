"""What a study measures in addition to AP: times before the runs, gradients after them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucketed_losses.terminal import say

from .child import arguments_of
from .commands import Command
from .executors import Executor
from .outcomes import sorted_weights
from .plan import STOCK, Detector, Plan
from .store import Study


class Measurements:
    """Measures what the study does not know yet.

    Args:
        plan: What to measure.
        study: Where the results are stored. Losses are measured if it has the configs of their runs; a loss of which a
            trial has failed has none.
        executor: Where to measure.
    """

    def __init__(self, plan: Plan, study: Study, executor: Executor) -> None:
        self.plan = plan
        self.study = study
        self.executor = executor

    def _config(self, detector: Detector, loss: str) -> Path:
        return self.study.config(*self.plan.first_run(detector, loss).key)

    def _losses(self, detector: Detector) -> list[str]:
        return [loss for loss in self.plan.losses if self._config(detector, loss).is_file()]

    def times(self) -> None:
        """Measure seconds per iteration; the losses of a detector take turns."""
        for detector in self.plan.detectors:
            known, losses = self.study.times(detector.name), self._losses(detector)
            if any(loss not in known for loss in losses):
                say(f'{detector.name}: time per iteration of {", ".join(losses)}')
                measured = self._times_of(detector, losses)
                if not measured and len(losses) > 1:  # one of them fails, or they need too much memory together
                    for loss in losses:
                        measured |= self._times_of(detector, [loss])
                known |= measured
                self.study.write_times(detector.name, known)
            if self.plan.equal_time and {'rs', 'brs'} <= set(losses) and 'rs, loops timed' not in known:
                say(f'{detector.name}: time of the published loop over positives')
                measured = self._times_of(detector, ['rs', 'brs'], with_loop=True)
                known |= {f'{loss}, loops timed': times for loss, times in measured.items()}
                self.study.write_times(detector.name, known)

    def _times_of(self, detector: Detector, losses: Sequence[str], with_loop: bool = False) -> dict[str, dict]:
        name = '-'.join([detector.name, *losses, *(['by-loop'] if with_loop else [])])
        out = self.study.root / 'times' / f'{name}.measured.json'
        configs = [str(self._config(detector, loss)) for loss in losses]
        if not self._run('times', out, configs=configs, iterations=self.plan.time_iterations, with_loop=with_loop):
            return {}
        measured = json.loads(out.read_text())
        out.unlink()
        return dict(zip(losses, measured.values(), strict=True))

    def _run(self, step: str, out: Path, **arguments: Any) -> bool:
        """Run a step that writes a file, unless it is there."""
        out.parent.mkdir(exist_ok=True)
        log = out.with_suffix('.log')
        if not out.is_file():
            self.executor.call(Command(arguments_of(step, out=str(out), **arguments), log), alone=True)
        if not out.is_file() and not self.executor.stopping.is_set():
            print(f'  not measured; the reason is at the end of {log}', flush=True)
        return out.is_file()

    def gradients(self) -> None:
        """Measure the gradient of every loss on the logits of first runs, early, middle and late in their training."""
        for detector in self.plan.detectors:
            losses = self._losses(detector)
            ranking = [loss for loss in losses if loss != STOCK and loss not in self.plan.configs]
            if self.executor.stopping.is_set() or not ranking:
                continue
            head = 'brs' if 'brs' in ranking else ranking[0]
            config = self._config(detector, head)
            for loss in dict.fromkeys([*([STOCK] if STOCK in losses else []), head]):
                run = self.plan.first_run(detector, loss)
                weights = sorted_weights(self.study.folder(*run.key) / 'weights')
                out = self.study.root / 'gradients' / f'{detector.name}_{loss}.json'
                if weights and self.study.is_done(run) and not out.is_file():
                    say(f'{detector.name}: gradients on the logits of {loss}')
                    self._run('gradients', out, config=str(config), checkpoints=[str(path) for path in weights])
