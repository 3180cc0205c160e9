"""The steps of a study: learning rates, configs, times, training runs, gradients, report.

A study may be stopped or killed at any time. The same steps continue it and do not repeat finished runs.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from mmengine.config import Config

from bucketed_losses.errors import STOPPED
from bucketed_losses.terminal import say

from .child import arguments_of
from .commands import Command
from .configs import budget_of, make_config, other_settings_note, write_config
from .detections import resample, save_detections
from .executors import Executor
from .learning_rates import learning_rate, learning_rate_note
from .lock import only_study
from .measurements import Measurements
from .names import describe_losses
from .outcomes import keep_three, outcome_of
from .plan import STOCK, Plan, Refusal, Run
from .progress import share_done, time_left
from .report import write_report
from .store import Study, last_metrics
from .tuning import chosen_factor

PROGRESS_SECONDS = 60


def run_study(plan: Plan, make_executor: Callable[[TextIO], Executor]) -> int:
    """Run all steps of a study; Ctrl-C and SIGTERM stop it.

    Args:
        plan: What to run.
        make_executor: Makes an executor from the lock of the study.

    Returns:
        0 if every run finished or is recorded as diverged, 1 if one failed, 130 if the study was stopped.

    Raises:
        Refusal: the plan cannot be carried out.
    """
    with only_study(plan.folder) as lock:
        executor = make_executor(lock)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: executor.stop())
        runner = StudyRunner(plan, executor)
        trials = runner.prepare_trials()
        runner.train(trials)
        runs: list[Run] = []
        if not executor.stopping.is_set():
            runs = runner.prepare()
            measurements = Measurements(plan, runner.study, executor)
            measurements.times()
        if not executor.stopping.is_set():
            runs += runner.equal_time_runs(runs)
            runner.train(runs)
            measurements.gradients()
        write_report(runner.study)
        if executor.stopping.is_set():
            print(f'Stopped; the same command continues. The finished runs are in {plan.folder}')
            return STOPPED
        failed = [run for run in trials + runs if not runner.study.is_done(run)]
        for run in failed:
            result = runner.study.result(*run.key) or {'detail': 'it was not run'}
            print(f'{run} failed: {result["detail"]}')
        print(f'The comparison is in {plan.folder / "study.md"} and study.csv')
        return 1 if failed else 0


class StudyRunner:
    """Prepares and trains the runs of a study.

    Args:
        plan: What to run.
        executor: Where to run it.
    """

    def __init__(self, plan: Plan, executor: Executor) -> None:
        self.plan = plan
        self.executor = executor
        self.study = Study(plan.folder)
        self.guard = threading.Lock()
        self.started = self.total = 0
        self.waiting: list[Run] = []
        """Runs that have not ended, those that are being trained included."""
        self.running: list[Run] = []
        self.later: list[Run] = []
        """Runs that begin when the learning rates are chosen."""

    def prepare_trials(self) -> list[Run]:
        """The runs that choose learning rates, with their configs written; none if there is no grid.

        Raises:
            Refusal: a run of the study is not possible, or the study has it with other settings.
        """
        trials = self.plan.trials()
        if trials:
            self.later = self.plan.runs()
            for run in self.later:
                cfg = self._make_config(run)
                if not self.study.knows(run):
                    self._remember(run, cfg)
        for run in trials:
            self._write_config(run)
        return trials

    def prepare(self) -> list[Run]:
        """All runs with the learning rates that were chosen, with their configs written.

        A loss is left out if one of its trials has failed.

        Raises:
            Refusal: a run is not possible, or the study has it with other settings.
        """
        self.later = []
        runs = []
        noted: set[str] = set()
        for planned in self.plan.runs():
            factor = chosen_factor(self.study, self.plan, planned.detector, planned.loss)
            if factor is None:
                continue
            run = replace(planned, lr_factor=factor)
            cfg = self._write_config(run)
            for note in self._notes(run, cfg):
                if note not in noted:
                    print(note, flush=True)
                    noted.add(note)
            runs.append(run)
        return runs

    def _notes(self, run: Run, cfg: Config) -> list[str]:
        notes = [learning_rate_note(run.detector, cfg, self.plan.gpus)]
        if run.config:
            stock = self._make_config(replace(run, loss=STOCK, config=None))
            notes.append(other_settings_note(run, cfg, stock))
        return [note for note in notes if note]

    def _make_config(self, run: Run) -> Config:
        epochs = (self.plan.tuning_epochs if run.is_trial else None) or self.plan.epochs
        return make_config(run, self.plan.data, self.plan.options, self.plan.gpus, epochs)

    def _write_config(self, run: Run) -> Config:
        cfg = self._make_config(run)
        write_config(cfg, self.study.config(*run.key))
        tuned: dict[str, Any] = {'lr_factor': run.lr_factor} if self.plan.lr_factors else {}
        gpus = self.study.gpus(run)
        if gpus not in (None, self.plan.gpus):
            raise Refusal(
                f'{run.detector.name} {run.label} has --gpus {gpus} in {self.study.root}, got --gpus '
                f'{self.plan.gpus}; the runs of a row must have the same, so use another STUDY'
            )
        if run.is_trial:
            tuned['trial_of'] = run.loss
        self._remember(run, cfg, **tuned)
        return cfg

    def _remember(self, run: Run, cfg: Config, **more: Any) -> None:
        name = run.loss if run.config and not run.is_trial else None
        self.study.remember(
            run.detector.name, run.label, *describe_losses(cfg.model), cfg.model.type, budget_of(cfg), name=name,
            learning_rate=learning_rate(cfg, self.plan.gpus), gpus=self.plan.gpus, **more,
        )  # fmt: skip

    def equal_time_runs(self, runs: Sequence[Run]) -> list[Run]:
        """BRS Loss for as long as RS Loss takes when it loops over the positives (the paper's Table 4)."""
        longer_runs = []
        for first in self._first_brs_runs(runs) if self.plan.equal_time else ():
            detector = first.detector
            seconds = self.study.equal_time(detector.name)
            if seconds is None:
                continue
            by_loop, fast = seconds
            _, budget = budget_of(Config.fromfile(self.study.config(*first.key)))
            longer = int(budget * by_loop / fast)
            if longer <= budget:
                print(
                    f'{detector.name}: RS with its loop over positives is not slower, so there is no run in equal time'
                )
                continue
            longer_runs.append(replace(first, epochs=longer))
            self._write_config(longer_runs[-1])
        return longer_runs

    def _first_brs_runs(self, runs: Sequence[Run]) -> list[Run]:
        first_keys = [self.plan.first_run(detector, 'brs').key for detector in self.plan.detectors]
        return [run for run in runs if run.key in first_keys]

    def train(self, runs: Sequence[Run]) -> None:
        """Train all runs that are not done.

        Raises:
            Refusal: the executor does not accept a run.
        """
        self.total = len(runs)
        self.waiting = [run for run in runs if not self.study.is_done(run)]
        self.started = self.total - len(self.waiting)
        if self.started:
            say(f'{self.started} of {self.total} runs are finished already')
        for run in runs:
            if run not in self.waiting:  # an earlier command may have been killed before this
                resample(self.study, run)
        waiting = list(self.waiting)
        for run in waiting:
            self.executor.check(Command([], self._log(run)))
        with ThreadPoolExecutor(self.executor.jobs or max(len(waiting), 1)) as pool:
            futures = [pool.submit(self._train_or_tell, run) for run in waiting]
            while wait(futures, timeout=PROGRESS_SECONDS).not_done:
                self.print_progress()
        for future in futures:
            future.result()

    def print_progress(self) -> None:
        """Print the share of each training that is done, and the time that is left."""
        with self.guard:
            running = [f'{run}: {share_done(self.study, run):.0%}' for run in self.running]
            say(f'    {", ".join(running)}; {self._time_left()}')

    def _time_left(self) -> str:
        return time_left(self.study, [*self.waiting, *self.later], self.running, self.executor.jobs)

    def _log(self, run: Run) -> Path:
        return self.study.folder(*run.key) / 'train.log'

    def _train_or_tell(self, run: Run) -> None:
        """Train a run; tell an error at once, since it is raised only when all other runs have ended."""
        try:
            self._train(run)
        except Exception as error:
            print(f'    {run}: {type(error).__name__}: {error}', flush=True)
            raise

    def _train(self, run: Run) -> None:
        if self.executor.stopping.is_set():
            return
        folder, log = self.study.folder(*run.key), self._log(run)
        with self.guard:
            self.started += 1
            self.running.append(run)
            say(f'[{self.started}/{self.total}] {run}: training; {self._time_left()}')
        cfg = Config.fromfile(self.study.config(*run.key))
        # In the work directory, and with its path: the study's own config has no path, so that it may be moved.
        # Not in the study's own config, so that studies from before WeightsHook can go on.
        cfg.custom_hooks[-1].update(type='WeightsHook', out_dir=str(folder / 'weights'))
        save_detections(cfg, folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / self.study.config(*run.key).name
        cfg.dump(config)
        launcher = 'pytorch' if self.plan.gpus > 1 else 'none'
        command = arguments_of(
            'train', processes=self.plan.gpus, config=str(config), work_dir=str(folder), launcher=launcher
        )
        start = time.monotonic()
        try:
            ended = self.executor.call(Command(command, log))
        finally:
            with self.guard:
                self.running.remove(run)
        if self.executor.stopping.is_set():
            return
        with log.open(errors='replace') as file:
            file.seek(ended.log_begin)
            outcome = outcome_of(ended.code, file.read(), folder, budget_of(cfg)[1])
        keep_three(folder / 'weights')
        self.study.write_result(
            dict(detector=run.detector.name, loss=run.label, seed=run.seed, peak_rss_mb=ended.peak_mb, **outcome,
                 seconds_since_start=time.monotonic() - start, jobs=self.executor.jobs)
        )  # fmt: skip
        with self.guard:
            resample(self.study, run)  # it redirects what the whole process prints, so no other thread may print
            self.waiting.remove(run)
            detail = outcome['detail'] or f'AP {last_metrics(folder)["AP"]:.3f}'
            print(f'    {run}: {outcome["outcome"]}, {detail}', flush=True)
            write_report(self.study)
