"""Train one detector, or several, with one loss after another and compare them, as the paper's Tables 4, 7 and 8 do.

python tools/compare_losses.py STUDY --detectors [NAME=]CONFIG [[NAME=]CONFIG ...] [--data DATA_CONFIG]
                               [--losses stock ap bap rs brs alrp dr] [--seeds 0 stock=0,1,2 brs=0,1,2]
                               [--equal-time] [--jobs 1] [--gpus 1] [--cfg-options KEY=VALUE ...]

CONFIG is a config with the detector's own losses ('stock'), a file or a name such as
mmdet::atss/atss_r50_fpn_1x_coco.py; every other loss is put into it as tools/swap_loss.py does, and nothing else
differs: data, budget, schedule, seed. DATA_CONFIG is a config of a data set, whose loaders and evaluators take the
place of the detectors' own, and whose number of classes theirs. The steps of a study:

    1. time per iteration and in the losses, the losses of a detector taking turns (tools/measure_loss_time.py)
    2. training, a run after the other (tools/train.py), or --jobs of them at once; the first seed of every loss first
    3. the gradient of every loss on the same logits, early, middle and late (tools/gradient_shares.py)
    4. STUDY/study.csv, study.md and figures, also in between: they tell what is there

A study may be stopped or killed at any time; the same command goes on where it was, and nothing that is finished is run
again. Further commands with the same STUDY, e.g. other losses for another detector, add to it. A run that diverges is
recorded as such, and the study goes on; one that fails otherwise is tried again by the next command.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import _needs_mmdet  # noqa: F401
import torch
from _logs import read_scalars
from _runner import apply_options
from _study import DIVERGED, EQUAL_TIME, FAILED, FINISHED, STOCK, Study, describe_losses, read_metrics, write_report
from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict, DictAction
from swap_loss import find_config, load

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.swap import LOSSES, SwapError, swap_loss

TOOLS = Path(__file__).resolve().parent
NOTHING_DETECTED = 'testing results of the whole dataset is empty'  # as MMDetection's metrics say it
PROGRESS_SECONDS = 60
DATA_KEYS = [f'{part}_{kind}' for part in ('train', 'val', 'test') for kind in ('dataloader', 'evaluator')]


class Refusal(SystemExit):
    """What a user has to mend before a study can begin."""

    def __init__(self, message: str) -> None:
        super().__init__(f'compare_losses: {message}')


@dataclass(frozen=True)
class Detector:
    """A detector with its own losses, in a config."""

    name: str
    config: str
    """A file, or PACKAGE::PATH."""

    def load(self) -> Config:
        try:
            return load(find_config(self.config))[0]
        except UserError as error:
            raise Refusal(str(error)) from error


@dataclass(frozen=True)
class Run:
    """One training. ``epochs`` replaces the config's budget (the equal-time experiment)."""

    detector: Detector
    loss: str
    seed: int
    epochs: int | None = None

    @property
    def label(self) -> str:
        return EQUAL_TIME if self.epochs else self.loss

    def __str__(self) -> str:
        return f'{self.detector.name} {self.label} seed {self.seed}'


@contextmanager
def only_study(folder: Path) -> Iterator[TextIO]:
    """Hold the folder. Trainings inherit the lock: one that outlives a killed study still holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / '.lock').open('a+') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise Refusal(
                f'another study writes into {folder} (process {lock.read().strip()}, or a training that it left behind '
                'when it was killed); wait for it, stop it, or take another folder'
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


def make_config(run: Run, data: Path | None, options: Mapping[str, Any]) -> Config:
    """The config of one run.

    Raises:
        SwapError: the detector cannot carry the loss.
    """
    cfg = run.detector.load()
    for key in ('model', 'train_cfg'):
        if key not in cfg:
            raise Refusal(f'{run.detector.config} has no {key}: it is no config that trains a detector')
    if data is not None:
        _put_data(cfg, data)
    apply_options(cfg, options)
    if run.loss != STOCK:
        swap = swap_loss(cfg, run.loss)
        cfg = swap.cfg
        for note in swap.notes:
            if 'renew_interval' in note:
                print(f'{run}: {note}', flush=True)
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': run.seed}
    if run.epochs:
        _stretch(cfg, run.epochs)
    hooks = list(cfg.get('custom_hooks', []))
    present = {hook['type'] for hook in hooks}
    hooks += [dict(type=name) for name in ('InvalidLossHook', 'PreemptionHook') if name not in present]
    # Weights alone, for tools/gradient_shares.py; what is too many is removed when the run is over.
    by_epoch, budget = budget_of(cfg)
    hooks.append(
        dict(
            type='CheckpointHook',
            interval=1 if by_epoch else max(budget // 12, 1),
            by_epoch=by_epoch,
            save_optimizer=False,
            save_param_scheduler=False,
            filename_tmpl='{}.pth',
        )
    )
    cfg.custom_hooks = hooks
    checkpoint = cfg.setdefault('default_hooks', ConfigDict()).setdefault('checkpoint', ConfigDict())
    checkpoint.setdefault('type', 'CheckpointHook')
    checkpoint.setdefault('max_keep_ckpts', 2)
    return cfg


def _put_data(cfg: Config, data: Path) -> None:
    """Replace the data of a detector, and its number of classes by theirs."""
    if not data.is_file():
        raise Refusal(f'--data: there is no file {data}')
    source = Config.fromfile(data)
    missing = [key for key in ('train_dataloader', 'val_dataloader', 'val_evaluator') if key not in source]
    if missing:
        raise Refusal(f'{data} is no config of a data set: it has no {", ".join(missing)}')
    for key in DATA_KEYS:
        if key in source:
            cfg[key] = source[key]
    dataset = source.train_dataloader.dataset
    while 'metainfo' not in dataset and 'dataset' in dataset:  # RepeatDataset and its like
        dataset = dataset.dataset
    registered = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    classes = dataset.get('metainfo', {}).get('classes') or getattr(registered, 'METAINFO', {}).get('classes')
    if not classes:
        raise Refusal(f'{data}: {dataset.type} names no classes; give train_dataloader.dataset.metainfo.classes')
    _set_num_classes(cfg.model, len([classes] if isinstance(classes, str) else classes))


def _set_num_classes(part: Any, number: int) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == 'num_classes':
                part[key] = number
            elif key != 'rpn_head':  # one class whatever the data
                _set_num_classes(value, number)
    elif isinstance(part, (list, tuple)):
        for item in part:
            _set_num_classes(item, number)


def budget_of(cfg: Config) -> tuple[bool, int]:
    """Whether training is counted in epochs, and how many epochs or iterations it has."""
    loop = cfg.train_cfg
    by_epoch = loop.get('by_epoch', loop.get('type', 'EpochBasedTrainLoop') == 'EpochBasedTrainLoop')
    return by_epoch, loop.max_epochs if by_epoch else loop.max_iters


def _stretch(cfg: Config, budget: int) -> None:
    """Give a config another number of epochs; schedules are stretched, warm-ups are not."""
    by_epoch, old = budget_of(cfg)
    cfg.train_cfg['max_epochs' if by_epoch else 'max_iters'] = budget
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]:
        if scheduler.get('by_epoch', True) != by_epoch:
            continue
        warms_up = scheduler.get('type') == 'LinearLR' and scheduler.get('start_factor', 1 / 3) < scheduler.get(
            'end_factor', 1.0
        )
        for key in () if warms_up else ('begin', 'end', 'T_max'):
            if key in scheduler:
                scheduler[key] = round(scheduler[key] * budget / old)
        if 'milestones' in scheduler:
            scheduler.milestones = [round(step * budget / old) for step in scheduler.milestones]


class Comparison:
    """A study that is being made."""

    def __init__(self, args: argparse.Namespace, detectors: Sequence[Detector], lock: TextIO) -> None:
        self.args = args
        self.detectors = detectors
        self.lock = lock
        self.study = Study(args.study)
        self.stopping = threading.Event()
        self.processes: set[subprocess.Popen] = set()
        self.guard = threading.Lock()
        self.started = self.total = 0
        self.waiting: list[Run] = []
        self.running: list[Run] = []

    # Before anything is trained

    def plan(self) -> list[Run]:
        """All runs, first seeds first: a table fills before it gains a spread."""
        runs = [
            Run(detector, loss, seeds[rank])
            for rank in range(max(map(len, self.args.seeds.values())))
            for detector in self.detectors
            for loss in self.args.losses
            if rank < len(seeds := self.args.seeds[loss])
        ]
        for run in runs:
            self.write_config(run)
        return runs

    def folder(self, run: Run) -> Path:
        return self.study.folder(run.detector.name, run.label, run.seed)

    def config(self, run: Run) -> Path:
        return self.study.config(run.detector.name, run.label, run.seed)

    def write_config(self, run: Run) -> None:
        """Whole, so that a study stays what it was when the original changes."""
        path = self.config(run)
        try:
            cfg = make_config(run, self.args.data, self.args.cfg_options)
        except SwapError as error:
            raise Refusal(f'{run.detector.config} cannot carry {run.loss}: {error}') from error
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            aside = path.with_name(f'{path.stem}_being_written.py')
            cfg.dump(aside)
            aside.replace(path)
        else:
            before, now = (_flat(c) for c in (Config.fromfile(path), Config.fromstring(cfg.pretty_text, '.py')))
            differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            if differing:
                key = differing[0]
                raise Refusal(
                    f'{path} was made with other settings: {key} was {before.get(key)!r} and is {now.get(key)!r} now'
                    f'{f" ({len(differing)} differ)" if len(differing) > 1 else ""}; take another STUDY, or remove '
                    f'it and {self.folder(run)}'
                )
        cls, box = describe_losses(cfg.model)
        self.study.remember(run.detector.name, run.label, cls, box, cfg.model.type, budget_of(cfg))

    def measure_times(self) -> None:
        """Seconds per iteration of the losses of each detector, side by side."""
        for detector in self.detectors:
            known = self.study.times(detector.name)
            missing = [loss for loss in self.args.losses if loss not in known]
            if missing:
                print(f'{detector.name}: time per iteration of {", ".join(self.args.losses)}', flush=True)
                measured = self._times_of(detector, self.args.losses)
                if not measured:  # one does not fit beside the others, or fails
                    for loss in self.args.losses:
                        measured |= self._times_of(detector, [loss])
                self.study.write_times(detector.name, known | measured)
            if self.args.equal_time and 'rs, loops timed' not in known:
                print(f'{detector.name}: time of the published loop over positives', flush=True)
                measured = self._times_of(detector, ['rs', 'brs'], '--with-loop')
                self.study.write_times(
                    detector.name,
                    {**self.study.times(detector.name), **{f'{loss}, loops timed': m for loss, m in measured.items()}},
                )

    def _times_of(self, detector: Detector, losses: Sequence[str], *more: str) -> dict[str, dict]:
        configs = {str(self.config(Run(detector, loss, self.args.seeds[loss][0]))): loss for loss in losses}
        out = self.study.root / 'times' / f'{detector.name}.measured.json'
        out.parent.mkdir(exist_ok=True)
        out.unlink(missing_ok=True)
        command = [sys.executable, str(TOOLS / 'measure_loss_time.py'), *configs, '--json', str(out), *more]
        command += ['--iterations', str(self.args.time_iterations)]
        self._call(command, out.with_suffix('.log'), os.environ.copy())
        if not out.is_file():
            if not self.stopping.is_set():
                print(f'  not measured together; the reason is at the end of {out.with_suffix(".log")}', flush=True)
            return {}
        measured = json.loads(out.read_text())
        out.unlink()
        return {loss: measured[config] for config, loss in configs.items()}

    def equal_time_runs(self) -> list[Run]:
        """BRS Loss for as long as RS Loss takes when it loops over the positives (the paper's Table 4)."""
        runs = []
        for detector in self.detectors if self.args.equal_time else ():
            seconds = self.study.equal_time(detector.name)
            if seconds is None:
                continue
            by_loop, fast = seconds
            seed = self.args.seeds['brs'][0]
            first = Config.fromfile(self.config(Run(detector, 'brs', seed)))
            _, budget = budget_of(first)
            longer = int(budget * by_loop / fast)
            if longer <= budget:
                print(
                    f'{detector.name}: RS looping over the positives takes no longer; no run in equal time', flush=True
                )
                continue
            run = Run(detector, 'brs', seed, longer)
            self.write_config(run)
            runs.append(run)
        return runs

    # Training

    def train(self, runs: Sequence[Run]) -> None:
        self.total = len(runs)
        waiting = [run for run in runs if not self.study.is_done(run.detector.name, run.label, run.seed)]
        self.started = self.total - len(waiting)
        if self.started:
            print(f'{self.started} of {self.total} runs are finished already', flush=True)
        self.waiting = list(waiting)  # and those that are being trained
        slots: queue.Queue[int] = queue.Queue()
        for slot in range(self.args.jobs):
            slots.put(slot)

        def one(run: Run) -> None:
            slot = slots.get()
            try:
                if not self.stopping.is_set():
                    self._train(run, slot)
            finally:
                slots.put(slot)

        with ThreadPoolExecutor(self.args.jobs) as pool:
            futures = [pool.submit(one, run) for run in waiting]
            while wait(futures, timeout=PROGRESS_SECONDS).not_done:
                self._print_progress()
        for future in futures:
            future.result()

    def _print_progress(self) -> None:
        with self.guard:
            running = [f'{run}: {self._done_of(run):.0%}' for run in self.running]
            print(f'    {", ".join(running)}; {self._time_left()}', flush=True)

    def _done_of(self, run: Run) -> float:
        """The share of a run that is trained, by its log."""
        try:
            last = read_scalars(self.folder(run))[0][-1]
        except (FileNotFoundError, IndexError, json.JSONDecodeError):
            return 0.0
        by_epoch = self.study.counts_epochs(run.detector.name, run.label)
        return (last['epoch'] - 1 if by_epoch else last['step']) / self.study.budget(run.detector.name, run.label)

    def _train(self, run: Run, slot: int) -> None:
        folder = self.folder(run)
        with self.guard:
            self.started += 1
            self.running.append(run)
            left = self._time_left()
            print(f'[{self.started}/{self.total}] {run}: training; {left}', flush=True)
        log = folder / 'train.log'
        begin = log.stat().st_size if log.is_file() else 0
        folder.mkdir(parents=True, exist_ok=True)
        cfg = Config.fromfile(self.config(run))
        # The file where the runner will write its own version; the study's has no place, so that it may be moved.
        cfg.custom_hooks[-1].out_dir = str(folder / 'weights')
        config = folder / self.config(run).name
        cfg.dump(config)
        tool = [str(TOOLS / 'train.py'), str(config), '--work-dir', str(folder), '--resume']
        command = [sys.executable, *tool]
        if self.args.gpus > 1:
            launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={self.args.gpus}']
            command = [sys.executable, *launch, *tool, '--launcher', 'pytorch']
        start = time.monotonic()
        code, peak = self._call(command, log, environment(slot, self.args.jobs, self.args.gpus))
        with self.guard:
            self.running.remove(run)
        if self.stopping.is_set():
            return
        with log.open(errors='replace') as file:
            file.seek(begin)
            said = file.read()
        result: dict[str, Any] = dict(
            detector=run.detector.name, loss=run.label, seed=run.seed, peak_rss_mb=peak, detail='',
            seconds_since_start=time.monotonic() - start, jobs=self.args.jobs,
        )  # fmt: skip
        diverged = re.findall(r'FloatingPointError: (.*)', said)
        _, budget = budget_of(cfg)
        if code and diverged:
            result |= dict(outcome=DIVERGED, detail=diverged[-1])
        elif code:
            result |= dict(outcome=FAILED, detail=_last_error(said))
        else:
            result |= self._check_finished(folder, budget, said)
        _keep_three(folder / 'weights')
        self.study.write_result(result)
        with self.guard:
            self.waiting.remove(run)
            what = result['detail'] or f'AP {read_metrics(folder)[-1][1]["AP"]:.3f}'
            print(f'    {run}: {result["outcome"]}, {what}', flush=True)
            write_report(self.study)

    @staticmethod
    def _check_finished(folder: Path, budget: int, said: str) -> dict[str, str]:
        try:
            step, metrics = read_metrics(folder)[-1]
        except (FileNotFoundError, IndexError):
            return dict(outcome=FAILED, detail='no validation in its log')
        if step < budget:
            return dict(outcome=FAILED, detail=f'stopped by a signal after step {step}; it will go on')
        if 'AP' not in metrics and NOTHING_DETECTED in said:
            return dict(outcome=FINISHED, detail='AP 0: nothing was detected')
        if 'AP' not in metrics:
            return dict(outcome=FAILED, detail=f'no AP among what was evaluated: {", ".join(metrics) or "nothing"}')
        return dict(outcome=FINISHED)

    def _time_left(self) -> str:
        """By the runs of a detector that are finished, else by its time per iteration."""
        seconds = 0.0
        for run in self.waiting:
            times = self.study.times(run.detector.name).get(run.loss)
            pace = self.study.pace(run.detector.name)
            if pace is None and times:
                by_epoch = self.study.counts_epochs(run.detector.name, run.label)
                pace = times['seconds_per_iteration'] * (times['iterations_per_epoch'] if by_epoch else 1)
            if pace is not None:
                left = 1 - self._done_of(run) if run in self.running else 1.0
                seconds += left * pace * self.study.budget(run.detector.name, run.label)
            else:
                return 'time left not known yet'
        minutes = round(seconds / self.args.jobs / 60)
        return f'about {minutes // 60} h {minutes % 60} min left of the study' if minutes >= 60 else (
            f'about {minutes} min left of the study'
        )  # fmt: skip

    # After training

    def compare_gradients(self) -> None:
        """The gradient of every loss on the logits that runs of the first seed had, early, middle and late."""
        for detector in self.detectors:
            ranking = [loss for loss in self.args.losses if loss != STOCK]
            if self.stopping.is_set() or not ranking:
                continue
            head = 'brs' if 'brs' in ranking else ranking[0]
            config = self.config(Run(detector, head, self.args.seeds[head][0]))
            for loss in dict.fromkeys([*([STOCK] if STOCK in self.args.losses else []), head]):
                seed = self.args.seeds[loss][0]
                if not self.study.is_done(detector.name, loss, seed):
                    continue
                weights = sorted(
                    (self.folder(Run(detector, loss, seed)) / 'weights').glob('**/*.pth'), key=lambda p: int(p.stem)
                )
                out = self.study.root / 'gradients' / f'{detector.name}_{loss}.json'
                if not weights or out.is_file():
                    continue
                out.parent.mkdir(exist_ok=True)
                print(f'{detector.name}: gradients on the logits of {loss}', flush=True)
                command = [sys.executable, str(TOOLS / 'gradient_shares.py'), str(config), *map(str, weights)]
                self._call([*command, '--json', str(out)], out.with_suffix('.log'), os.environ.copy())
                if not out.is_file() and not self.stopping.is_set():
                    print(f'  failed; the reason is at the end of {out.with_suffix(".log")}', flush=True)

    # Processes

    def _call(self, command: Sequence[str], log: Path, env: dict[str, str]) -> tuple[int, float]:
        """Exit code and peak memory (MB, of the largest process) of a command; it inherits the study's lock."""
        with log.open('a') as file:
            with self.guard:
                if self.stopping.is_set():
                    return 1, 0.0
                process = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, env=env, pass_fds=[self.lock.fileno()],
                    start_new_session=True,
                )  # fmt: skip
                self.processes.add(process)
            if self.stopping.is_set():  # in between
                process.send_signal(signal.SIGTERM)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            with self.guard:
                self.processes.discard(process)
        return process.returncode, _megabytes(usage)

    def stop(self) -> None:
        """Let trainings save a checkpoint and end; the second time, kill them."""
        number = signal.SIGKILL if self.stopping.is_set() else signal.SIGTERM
        self.stopping.set()
        for process in list(self.processes):
            process.send_signal(number)


def _megabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (1024**2 if sys.platform == 'darwin' else 1024)


def _last_error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r'[\w.]*(Error|Exception|Interrupt)\b', line.strip())]
    return (named or lines or ['no output'])[-1].strip()[:300]


def _keep_three(weights: Path) -> None:
    """The first, the middle and the last."""
    files = sorted(weights.glob('**/*.pth'), key=lambda path: int(path.stem))
    keep = {files[0], files[(len(files) - 1) // 2], files[-1]} if files else set()
    for path in files:
        if path not in keep:
            path.unlink()


def _flat(part: Any, prefix: str = '') -> dict[str, Any]:
    if isinstance(part, (dict, Config)):
        return {k: v for key, value in part.items() for k, v in _flat(value, f'{prefix}.{key}'.lstrip('.')).items()}
    return {prefix: part}


def environment(slot: int, jobs: int, gpus: int) -> dict[str, str]:
    """Of a training: its share of the GPUs, or of the CPU's cores, if several run at once."""
    env = dict(os.environ)
    if jobs == 1:
        return env
    if torch.cuda.is_available():
        devices = env.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(torch.cuda.device_count())))
        visible = devices.split(',')
        if len(visible) >= jobs * gpus:
            env['CUDA_VISIBLE_DEVICES'] = ','.join(visible[slot * gpus : (slot + 1) * gpus])
    env.setdefault('OMP_NUM_THREADS', str(max((os.cpu_count() or 1) // (jobs * gpus), 1)))
    return env


def parse_detector(text: str) -> Detector:
    name, separator, path = text.partition('=')
    config = path if separator else text
    if not re.fullmatch(r'[\w.+() -]+', name := name if separator else Path(config.rpartition('::')[2]).stem):
        raise argparse.ArgumentTypeError(f'a detector is named by letters, digits and spaces, got {name!r}')
    return Detector(name, config)


def parse_seeds(texts: Sequence[str], losses: Sequence[str]) -> dict[str, list[int]]:
    """Seeds per loss of ``0,1`` (for all) and ``LOSS=0,1,2``."""
    seeds = {loss: [0] for loss in losses}
    for text in sorted(texts, key=lambda text: '=' in text):
        loss, separator, numbers = text.rpartition('=')
        if not re.fullmatch(r'\d+(,\d+)*', numbers) or (separator and loss not in seeds):
            raise Refusal(f'--seeds: expected 0,1,2 or LOSS=0,1,2 with one of {", ".join(losses)}, got {text!r}')
        values = list(dict.fromkeys(map(int, numbers.split(','))))
        seeds.update({loss: values} if separator else dict.fromkeys(losses, values))
    return seeds


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', type=Path, metavar='STUDY', help='folder of the study, made or gone on with')
    parser.add_argument('--detectors', nargs='+', type=parse_detector, metavar='[NAME=]CONFIG', required=True)
    parser.add_argument('--data', type=Path, metavar='DATA_CONFIG', help="instead of the detectors' own data")
    choices = [STOCK, *LOSSES]
    parser.add_argument('--losses', nargs='+', choices=choices, default=[STOCK, 'rs', 'brs'], help='%(default)s')
    parser.add_argument('--seeds', nargs='+', default=['0'], metavar='[LOSS=]SEED[,SEED...]')
    parser.add_argument(
        '--equal-time', action='store_true', help='also BRS for as long as RS would take looping over the positives'
    )
    parser.add_argument('--jobs', type=int, default=1, help='trainings at once (times are measured alone, before)')
    parser.add_argument('--gpus', type=int, default=1, help='processes of each training, by torchrun')
    parser.add_argument('--time-iterations', type=int, default=10, help='iterations that times are medians of')
    parser.add_argument(
        '--cfg-options', nargs='+', default={}, action=DictAction, help='settings for every run, as for tools/train.py'
    )
    args = parser.parse_args(argv)
    args.study = args.study.resolve()
    args.losses = list(dict.fromkeys(args.losses))
    args.seeds = parse_seeds(args.seeds, args.losses)
    if args.equal_time and not {'rs', 'brs'} <= set(args.losses):
        parser.error('--equal-time compares rs and brs: name both among the losses')
    if min(args.jobs, args.gpus, args.time_iterations) < 1:
        parser.error('--jobs, --gpus and --time-iterations must be 1 or more')
    names = [detector.name for detector in args.detectors]
    if len(set(names)) < len(names):
        parser.error(f'two detectors have one name, of {", ".join(names)}: give NAME=CONFIG')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every run finished or is recorded as diverged."""
    args = parse_args(argv)
    with only_study(args.study) as lock:
        comparison = Comparison(args, args.detectors, lock)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: comparison.stop())
        runs = comparison.plan()
        comparison.measure_times()
        if not comparison.stopping.is_set():
            runs += comparison.equal_time_runs()
            comparison.train(runs)
            comparison.compare_gradients()
        write_report(comparison.study)
        if comparison.stopping.is_set():
            print(f'Stopped; the same command goes on. What is finished: {args.study / "study.md"}')
            return 130
        failed = [run for run in runs if not comparison.study.is_done(run.detector.name, run.label, run.seed)]
        for run in failed:
            result = comparison.study.result(run.detector.name, run.label, run.seed) or {'detail': 'it was not run'}
            print(f'{run} failed: {result["detail"]}')
        print(f'The comparison is in {args.study / "study.md"} and study.csv')
        return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
