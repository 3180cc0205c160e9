"""How much of a study is done, and the time that is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median

from .logs import NoLogsError, log_files, read_scalars
from .outcomes import FINISHED
from .plan import Run
from .store import Study


def share_done(study: Study, run: Run) -> float:
    """The share of a run that is trained, by its log."""
    try:
        last = read_scalars(study.folder(*run.key))[0][-1]
    except (NoLogsError, IndexError, json.JSONDecodeError):
        return 0.0
    by_epoch = study.counts_epochs(run.detector.name, run.label)
    return (last['epoch'] - 1 if by_epoch else last['step']) / study.budget(run.detector.name, run.label)


def seconds_per_step(study: Study, run: Run) -> float | None:
    """Seconds that one epoch, or iteration, of a run's budget takes.

    This is the median of the detector's finished runs or, without any, follows from its time per iteration. Runs that
    were resumed are left out, because only the seconds since their last start are known. None if neither is known.
    """
    detector = run.detector.name
    seconds = [
        result['seconds_since_start'] / study.budget(detector, result['loss'])
        for result in (*study.results(), *study.results(trials=True))
        if result['detector'] == detector and result['outcome'] == FINISHED
        if len(log_files(study.folder(detector, result['loss'], result['seed']))) == 1
    ]
    if seconds:
        return median(seconds)
    times = study.times(detector).get(run.loss)
    if not times:
        return None
    steps = times['iterations_per_epoch'] if study.counts_epochs(detector, run.label) else 1
    return times['seconds_per_iteration'] * steps


def time_left(study: Study, waiting: Sequence[Run], running: Sequence[Run], jobs: int | None) -> str:
    """The time that is left, in words.

    Args:
        study: The study.
        waiting: Runs that have not ended.
        running: Those of them that are being trained.
        jobs: Runs at once; None: all of them.
    """
    seconds = 0.0
    for run in waiting:
        step = seconds_per_step(study, run)
        if step is None:
            return 'time left not known yet'
        left = 1 - share_done(study, run) if run in running else 1.0
        seconds += left * step * study.budget(run.detector.name, run.label)
    minutes = round(seconds / (jobs or max(len(waiting), 1)) / 60)
    hours = f'{minutes // 60} h ' if minutes >= 60 else ''
    return f'about {hours}{minutes % 60} min left of the study'
