"""The logs that MMEngine writes into a work directory."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache
from math import nan
from pathlib import Path

from bucketed_losses.errors import UserError

RUN_METAVAR = 'NAME=WORK_DIR[,WORK_DIR...]'


class NoLogsError(UserError, FileNotFoundError):
    """A folder has no logs of a training."""


def parse_run(text: str) -> tuple[str, list[str]]:
    """``NAME=DIR,DIR`` as a name and the work directories of its seeds; without NAME, a directory has its own name.

    Raises:
        UserError: the name or the directories are missing.
    """
    name, separator, work_dirs = text.partition('=')
    if not separator or Path(text).is_dir():
        return Path(text).absolute().name, [text]
    if not name or not work_dirs:
        raise UserError(f'a run must have the form {RUN_METAVAR}, got {text}')
    return name, work_dirs.split(',')


def parse_runs(texts: Sequence[str]) -> dict[str, list[str]]:
    """The work directories of each run by its name, from texts as :func:`parse_run` takes them.

    Raises:
        UserError: a text has another form, or two runs have the same name.
    """
    runs: dict[str, list[str]] = {}
    for name, work_dirs in map(parse_run, texts):
        if name in runs:
            raise UserError(
                f'two runs have the same name, {name!r} ({", ".join(runs[name] + work_dirs)}); write NAME=WORK_DIR for '
                'each, or NAME=WORK_DIR,WORK_DIR if they are seeds of one run'
            )
        runs[name] = work_dirs
    return runs


def log_files(work_dir: str | Path) -> list[Path]:
    """The logs of a work directory, one for each start of the training; their folders are named by the time."""
    return sorted(Path(work_dir).glob('**/vis_data/scalars.json'))


def read_scalars(work_dir: str | Path) -> tuple[list[dict], list[dict]]:
    """Training and validation records of a work directory in the order of their steps.

    If a run was resumed, its logs are joined: a log replaces what the earlier ones have from its first training step
    on. So if a training began anew, the earlier logs do not count, even if they are longer. A warning says so if there
    are validations in them. What else hooks have logged, such as the ranking errors of ``RankingVisualizationHook``, is
    left out.

    Raises:
        NoLogsError: there is none.
        UserError: a line of a log is damaged.
    """
    files = log_files(work_dir)
    if not files:
        raise NoLogsError(f'there is no vis_data/scalars.json in {work_dir}; give the work directory of a training run')
    train: dict[int, dict] = {}
    val: dict[int, tuple[int, dict]] = {}  # with the last training step before each, because val counts epochs
    for file in files:
        records = _records(file)
        first = next((record['step'] for record in records if 'loss' in record), None)
        if first is not None:
            if train and val and first <= min(train):
                _warn_of_restart(work_dir, file.parents[1].name)
            train = {step: record for step, record in train.items() if step < first}
            val = {number: (step, record) for number, (step, record) in val.items() if step < first}
        step = 0 if first is None else first - 1
        for record in records:
            if 'loss' in record:
                step = record['step']
                train[step] = record
            elif _is_validation(record):
                # By default, MMEngine logs all validations of a training that counts iterations as those of epoch 0.
                number = record['step'] or step
                val[number] = step, {**record, 'step': number}
    return [train[step] for step in sorted(train)], [val[number][1] for number in sorted(val)]


def _is_validation(record: Mapping[str, float]) -> bool:
    """Whether a record without losses is that of a validation, which may have no metrics if nothing was detected."""
    return 'time' in record or 'data_time' in record or any(map(_metric_name, record))


def _records(file: Path) -> list[dict]:
    records = []
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f'{file}: line {number} is damaged ({error}); remove this line') from error
            # A killed run was writing the last line.
    return records


@cache  # the logs of a study are read again and again
def _warn_of_restart(work_dir: str | Path, log: str) -> None:
    logging.getLogger(__name__).warning(
        f'{work_dir} has logs of more than one training; those before {log} do not count'
    )


def read_metrics(work_dir: str | Path) -> list[tuple[int, dict[str, float]]]:
    """Step and metrics of every validation with COCO's, LVIS's or VOC's metric, named as in the paper's tables.

    COCO's metric is -1 if there are no objects, for example no small ones; here it is NaN then.

    Raises:
        NoLogsError: the work directory has no logs.
    """
    found = []
    for record in read_scalars(work_dir)[1]:
        metrics = {}
        for key, value in record.items():
            if name := _metric_name(key):
                metrics[name] = value if value >= 0 else nan
        found.append((record['step'], metrics))
    return found


def _metric_name(key: str) -> str | None:
    """The name of a metric in the paper's tables, or of a class; None if the key is not that of a metric."""
    name = key.rpartition('/')[2]
    if name.endswith('_precision'):
        return name.removesuffix('_precision')
    if match := re.fullmatch(r'(?:(bbox|segm)_)?m?AP_?(50|75|s|m|l|r|c|f)?', name):
        kind, which = match.groups()
        return ('mask ' if kind == 'segm' else '') + 'AP' + (which or '')
    return None


def with_ap(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics with an AP: that of the boxes or, for detectors without boxes (SOLO), that of the masks.

    MMDetection logs no AP if nothing at all was detected: it is 0.
    """
    if 'AP' in metrics:
        return dict(metrics)
    return {'AP': 0.0, **{name.removeprefix('mask '): value for name, value in metrics.items()}}
