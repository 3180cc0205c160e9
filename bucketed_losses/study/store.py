"""The files of a study, and its results as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from .logs import read_metrics, read_scalars, with_ap
from .names import NAMES, ORDER, hyper_parameters, place_of
from .outcomes import DIVERGED, FINISHED
from .plan import Run

AP_COLUMNS = ['AP', 'AP50', 'AP75', 'APs', 'APm', 'APl']
COLUMNS = [
    'detector', 'loss', 'label', 'seed', 'outcome', 'budget', 'learning rate', *AP_COLUMNS, 'seconds per iteration',
    'seconds in the losses', 'peak memory (MB)', 'memory of', 'hyper-parameters', 'detail',
]  # fmt: skip
"""Columns of the table of results; further ones are the APs of the classes, and others that the metric logs."""
MOMENTS = ('early', 'middle', 'late')


class Study:
    """The folder of a study.

    ``study.json`` lists what it holds, ``configs/DETECTOR/LOSS_SEED.py`` are the configs of the runs,
    ``runs/DETECTOR/LOSS_SEED`` their work directories, with a ``result.json`` once they have ended, and
    ``times/DETECTOR.json``, ``gradients/DETECTOR_LOSS.json`` what was measured. Runs that choose a learning rate are
    stored in the same way, with the factor in their label.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: dict[str, dict[str, Any]] = _read(root / 'study.json') or {}

    def folder(self, detector: str, label: str, seed: int) -> Path:
        """The work directory of a run."""
        return self.root / 'runs' / detector / f'{label}_{seed}'.replace(' ', '-')

    def config(self, detector: str, label: str, seed: int) -> Path:
        """The config of a run. Not in the work directory, where MMEngine writes its own version."""
        return self.root / 'configs' / detector / f'{self.folder(detector, label, seed).name}.py'

    def remember(
        self, detector: str, label: str, cls: str, box: str, model: str, budget: tuple[bool, int], **more: Any
    ) -> None:
        """Add a detector's loss to what the study holds.

        Args:
            detector: Name of the detector.
            label: Label of the loss.
            cls, box: Names of its classification loss and box loss.
            model: Class of the detector.
            budget: Whether the training is counted in epochs, and the number of epochs or iterations.
            more: ``name`` for tables; ``learning_rate``; ``gpus``, the processes of each training; ``lr_factor``, the
                factor that was chosen or is tried; and ``trial_of``, the loss whose learning rate the run chooses.
        """
        entry = self.entries.setdefault(detector, {'model': model, 'losses': {}})
        by_epoch, number = budget
        known = {key: value for key, value in more.items() if value is not None}
        entry['losses'][label] = dict(
            cls=cls, box=box, budget=f'{number} {"epochs" if by_epoch else "iterations"}', **known
        )
        write_json(self.root / 'study.json', self.entries)

    def knows(self, run: Run) -> bool:
        """Whether the loss of a run was added to the study."""
        return run.label in self.entries.get(run.detector.name, {}).get('losses', {})

    def gpus(self, run: Run) -> int | None:
        """Processes of each training of a run's loss; None if the study does not say."""
        return self.entries[run.detector.name]['losses'][run.label].get('gpus') if self.knows(run) else None

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Record how a run ended. A run that was killed has no result."""
        write_json(self.folder(result['detector'], result['loss'], result['seed']) / 'result.json', result)

    def result(self, detector: str, label: str, seed: int) -> dict[str, Any] | None:
        """How a run ended, or None."""
        return _read(self.folder(detector, label, seed) / 'result.json')

    def is_done(self, run: Run) -> bool:
        """Whether a run needs no more training: it finished or diverged."""
        result = self.result(*run.key)
        return result is not None and result['outcome'] in (FINISHED, DIVERGED)

    def results(self, trials: bool = False) -> list[dict[str, Any]]:
        """The results of all runs that have ended, in the order of tables.

        Args:
            trials: Return the runs that choose a learning rate instead.
        """
        found = []
        for detector, entry in self.entries.items():
            for label in sorted(entry['losses'], key=place_of):
                if ('trial_of' in entry['losses'][label]) != trials:
                    continue
                files = self.folder(detector, label, 0).parent.glob(f'{self.folder(detector, label, 0).name[:-1]}*')
                read = [_read(folder / 'result.json') for folder in files]
                found += sorted((r for r in read if r and r['loss'] == label), key=lambda r: r['seed'])
        return found

    def name_of(self, detector: str, label: str) -> str:
        """A loss as the paper's tables name it."""
        if label in NAMES:
            return NAMES[label]
        parts = self.entries[detector]['losses'][label]
        return parts.get('name') or '+'.join(filter(None, (parts['cls'], parts['box'])))

    def times(self, detector: str) -> dict[str, dict[str, Any]]:
        """The measured times of each loss of a detector."""
        return _read(self.root / 'times' / f'{detector}.json') or {}

    def write_times(self, detector: str, times: Mapping[str, Any]) -> None:
        """Record measured times."""
        write_json(self.root / 'times' / f'{detector}.json', times)

    def equal_time(self, detector: str) -> tuple[float, float] | None:
        """Seconds per iteration of RS Loss by the published loop and of BRS Loss; None if they were not measured.

        Outside of the losses both do the same, so the mean of both is taken there.
        """
        times = self.times(detector)
        rs, brs = times.get('rs, loops timed'), times.get('brs, loops timed')
        if not rs or not brs:
            return None
        elsewhere = sum(t['seconds_per_iteration'] - t['seconds_in_losses'] for t in (rs, brs)) / 2
        return elsewhere + rs['seconds_by_loops'], elsewhere + brs['seconds_in_losses']

    def budget(self, detector: str, label: str) -> int:
        """Epochs or iterations of a run."""
        return int(self.entries[detector]['losses'][label]['budget'].split()[0])

    def counts_epochs(self, detector: str, label: str) -> bool:
        """Whether the budget of a run is a number of epochs."""
        return self.entries[detector]['losses'][label]['budget'].endswith('epochs')


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def write_json(path: Path, content: Any) -> None:
    """Write a file such that it is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f'.{path.name}.{os.getpid()}')
    aside.write_text(json.dumps(content, indent=1))
    aside.replace(path)


# Tables


def results_table(study: Study) -> pd.DataFrame:
    """A row for each run that has ended; empty cells are NaN."""
    return _typed(pd.DataFrame([_row(study, result) for result in study.results()]))


def _row(study: Study, result: Mapping[str, Any]) -> dict[str, Any]:
    detector, label = result['detector'], result['loss']
    entry = study.entries[detector]
    times = study.times(detector).get(label.split()[0], {})
    metrics: dict[str, float] = {}
    memory, memory_of = result['peak_rss_mb'], 'CPU, the process'
    work_dir = study.folder(detector, label, result['seed'])
    if result['outcome'] == FINISHED:
        metrics = last_metrics(work_dir)
        used = [record['memory'] for record in read_scalars(work_dir)[0] if record.get('memory')]
        if used:
            memory, memory_of = max(used), 'GPU'
    return {
        'detector': detector,
        'loss': study.name_of(detector, label),
        'label': label,
        'seed': result['seed'],
        'outcome': result['outcome'],
        'budget': entry['losses'][label]['budget'],
        'learning rate': _four_digits(entry['losses'][label].get('learning_rate')),
        **{column: metrics.pop(column, None) for column in AP_COLUMNS},
        'seconds per iteration': _four_digits(times.get('seconds_per_iteration')),
        'seconds in the losses': _four_digits(times.get('seconds_in_losses')),
        'peak memory (MB)': round(memory),
        'memory of': memory_of,
        'hyper-parameters': hyper_parameters(entry['model'], label),
        'detail': result['detail'],
        **metrics,
    }


def last_metrics(work_dir: Path) -> dict[str, float]:
    """The metrics of the last validation of a run, see :func:`with_ap`."""
    return with_ap(read_metrics(work_dir)[-1][1])


def _four_digits(value: float | None) -> float | None:
    return None if value is None else float(f'{value:.4g}')


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    table = table.reindex(columns=[*COLUMNS, *(column for column in table if column not in COLUMNS)])
    texts = ['detector', 'loss', 'label', 'outcome', 'budget', 'memory of', 'detail']
    table[texts] = table[texts].fillna('').astype(str)
    table['hyper-parameters'] = table['hyper-parameters'].astype('Int64')
    measured = [column for column in table if column not in (*texts, 'hyper-parameters', 'seed', 'peak memory (MB)')]
    table[measured] = table[measured].astype(float)
    return table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of results as CSV, completely or not at all."""
    aside = path.with_name(f'.{path.name}')
    table.to_csv(aside, index=False)
    aside.replace(path)


def read_table(path: Path) -> pd.DataFrame:
    """The table of results that :func:`write_table` wrote."""
    return _typed(pd.read_csv(path, keep_default_na=False, na_values=['']))


def groups(table: pd.DataFrame) -> Iterator[tuple[pd.Series, pd.DataFrame]]:
    """The rows of each detector and loss, one for each seed, and the first of them."""
    for _, group in table.groupby(['detector', 'label'], sort=False):
        yield group.iloc[0], group


def gradients_table(study: Study) -> pd.DataFrame:
    """What was measured about gradients: a row for each place of a loss, source of logits, moment and loss."""
    rows = []
    for detector in study.entries:
        for source in ORDER:
            measured = _read(study.root / 'gradients' / f'{detector}_{source}.json')
            for moment, checkpoint in zip(MOMENTS, measured or [], strict=False):
                for place, found in checkpoint['losses'].items():
                    shared = dict(
                        detector=detector, place=place, source=source, logits_of=study.name_of(detector, source),
                        moment=moment, negatives_per_positive=found['negatives'] / max(found['positives'], 1),
                    )  # fmt: skip
                    rows += [dict(shared, loss=loss, share=share) for loss, share in found['shares'].items()]
    return pd.DataFrame(rows)
