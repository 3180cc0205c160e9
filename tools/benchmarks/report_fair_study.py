"""The tables of docs/fair_study.md, from the CSV files of studies in docs/study.

python tools/benchmarks/report_fair_study.py [STUDY ...] [--docs docs]

STUDY is the folder of a study of ``bucketed-losses compare``, for example work_dirs/study/cards_atss. Those of its
tables study.csv, differences.csv and tuning.csv that are there are copied to docs/study/cards_atss first, and the AP of
every validation is written to epochs.csv there. A study that was stopped may have its trials of learning rates only.
The page has a place for the table of each folder: between the comments ``cards_atss`` and ``end of cards_atss``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from page_blocks import write_block
from tables import markdown, write_csv

from bucketed_losses.study.logs import read_metrics, with_ap
from bucketed_losses.study.outcomes import FINISHED
from bucketed_losses.study.store import Study

FILES = ('study.csv', 'differences.csv', 'tuning.csv')
BRS = 'brs'


def copy_study(study: Path, docs: Path) -> None:
    """Copy the tables of a study into the docs."""
    folder = docs / 'study' / study.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (study / name).is_file():
            shutil.copy(study / name, folder / name)
    write_csv(folder / 'epochs.csv', _epochs(Study(study)))


def _epochs(study: Study) -> list[dict[str, Any]]:
    """AP of every validation of all trials and runs that have finished."""
    rows = []
    for result in study.results(trials=True) + study.results():
        run = study.entries[result['detector']]['losses'][result['loss']]
        label = run.get('trial_of', result['loss'])
        who = dict(detector=result['detector'], loss=study.name_of(result['detector'], label), label=label)
        who |= dict(factor=run.get('lr_factor', 1.0), seed=result['seed'])
        if result['outcome'] == FINISHED:
            for epoch, metrics in read_metrics(study.folder(result['detector'], result['loss'], result['seed'])):
                rows.append(who | dict(epoch=epoch, AP=with_ap(metrics)['AP']))
    return rows


def studies_of(docs: Path) -> list[Path]:
    """The folders of docs/study that hold a study."""
    return sorted({path.parent for name in FILES for path in (docs / 'study').glob(f'*/{name}')})


def table_of(folder: Path) -> str:
    """A row for each loss: trials of learning rates if there are any, AP, and the difference of BRS Loss to it."""
    runs, trials = _read(folder / 'study.csv'), _read(folder / 'tuning.csv')
    differences, epochs = _read(folder / 'differences.csv'), _read(folder / 'epochs.csv')
    losses = pd.concat([runs, trials])[['detector', 'label', 'loss']].drop_duplicates()
    factors = sorted(trials.factor.unique()) if len(trials) else []
    several = losses.detector.nunique() > 1
    head = [*(['detector'] if several else []), 'loss', *_head_of_trials(factors)]
    if factors and len(epochs):
        *before, _ = sorted(epochs.epoch.unique())
        head.append(f'AP of the bold run after {", ".join(map(str, before))} epochs')
    head += ['seeds', 'AP', 'BRS minus this loss'] if len(runs) else []
    lines = []
    for detector, label, name in losses.itertuples(index=False):
        line = [*([detector] if several else []), name]
        line += _trials(trials, detector, label, factors)
        if factors and len(epochs):
            line.append(_curve(trials, epochs, detector, label))
        if len(runs):
            group = runs[(runs.detector == detector) & (runs.label == label)]
            brs = losses.loss[(losses.detector == detector) & (losses.label == BRS)]
            difference = '' if label == BRS or brs.empty else _difference(differences, detector, brs.iloc[0], name)
            line += [_seeds(group.seed), _mean(group), difference]
        lines.append(line)
    return markdown(head, lines)


def _read(path: Path) -> pd.DataFrame:
    """A table of a study; one without rows if there is none."""
    if not path.is_file():
        return pd.DataFrame(columns=['detector', 'label', 'loss'])
    return pd.read_csv(path, keep_default_na=False, na_values={'AP': ['']}, dtype={'seeds': str})


def _head_of_trials(factors: Sequence[float]) -> list[str]:
    head = [f'at {factor:g} \N{MULTIPLICATION SIGN}' for factor in factors]
    return [f'AP {head[0]} the learning rate', *head[1:]] if head else []


def _trials(trials: pd.DataFrame, detector: str, label: str, factors: Sequence[float]) -> list[str]:
    """The AP with each learning rate; the highest is bold."""
    of_loss = trials[(trials.detector == detector) & (trials.label == label)] if len(trials) else trials
    cells = []
    for factor in factors:
        found = of_loss[of_loss.factor == factor]
        if found.empty:
            cells.append('')
            continue
        trial = found.iloc[0]
        text = trial.outcome if pd.isna(trial.AP) else f'{trial.AP:.3f}'
        cells.append(f'**{text}**' if of_loss.AP.max() == trial.AP else text)
    return cells


def _curve(trials: pd.DataFrame, epochs: pd.DataFrame, detector: str, label: str) -> str:
    """The AP of the trial with the highest AP at each validation but the last."""
    of_loss = trials[(trials.detector == detector) & (trials.label == label)].dropna(subset='AP')
    if of_loss.empty:
        return ''
    best = of_loss.sort_values('AP').iloc[-1]
    own = (epochs.detector == detector) & (epochs.label == label)
    curve = epochs[own & (epochs.factor == best.factor) & (epochs.seed == best.seed)].sort_values('epoch')
    return ', '.join(f'{ap:.3f}' for ap in curve.AP.iloc[:-1])


def _mean(group: pd.DataFrame) -> str:
    """Mean ± sample standard deviation of the runs that finished, and how many did not."""
    values = group.AP.dropna()
    parts = [f'{values.mean():.3f}' + (f' ± {values.std():.3f}' if len(values) > 1 else '')] if len(values) else []
    lost = group.outcome[group.AP.isna()]
    if len(lost):
        parts.append(f'{len(lost)} {lost.iloc[0]}')
    return ', '.join(parts)


def _difference(differences: pd.DataFrame, detector: str, brs: str, other: str) -> str:
    """The mean difference with its interval and what it means; a study names a pair in either order."""
    if differences.empty:
        return ''
    of_detector = differences[differences.detector == detector]
    for first, second, sign in ((brs, other, 1), (other, brs, -1)):
        found = of_detector[(of_detector.loss == first) & (of_detector['compared with'] == second)]
        if len(found):
            row = found.iloc[0]
            low, high = sorted((sign * row.low, sign * row.high))
            verdict = row.verdict
            if sign < 0:
                verdict = {'ahead': 'behind', 'behind': 'ahead'}.get(verdict, verdict)
            mean = _signed(sign * row['difference of AP'])
            return f'{mean} [{_signed(low)}, {_signed(high)}], {verdict} (seeds {_seeds(row.seeds.split())})'
    return ''


def _seeds(seeds: Iterable[int | str]) -> str:
    """``0 to 4``, or the seeds one by one."""
    numbers = sorted(int(seed) for seed in seeds)
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f'{numbers[0]} to {numbers[-1]}'
    return ', '.join(map(str, numbers))


def _signed(value: float) -> str:
    return f'{value:+.3f}'.replace('-', '\N{MINUS SIGN}')


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('studies', nargs='*', type=Path, metavar='STUDY', help='copy the tables of this study first')
    parser.add_argument('--docs', type=Path, default=Path('docs'), help='folder of the docs (default: docs)')
    args = parser.parse_args(argv)
    for study in args.studies:
        copy_study(study, args.docs)
    page = args.docs / 'fair_study.md'
    for folder in studies_of(args.docs):
        write_block(page, folder.name, table_of(folder))
    print(f'wrote {page}')


if __name__ == '__main__':
    main()
