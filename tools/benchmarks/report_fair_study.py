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
from bucketed_losses.study.report import spread
from bucketed_losses.study.store import Study

FILES = ('study.csv', 'tuning.csv', 'differences.csv')
BRS = 'brs'
# Classes whose AP has a column of its own, in studies of this class.
CLASSES = {'shapes_imbalance': 'star'}
# Studies whose table has its own names for the losses, and their order.
NAMES = {
    'cards_ablation': {
        'stock': 'focal loss',
        'zero-bias': 'focal loss, bias 0',
        'weighted': 'focal loss, weighted boxes',
        'balanced': 'focal loss, weighted boxes, self-balancing',
        'balanced-zero-bias': 'focal loss, weighted boxes, self-balancing, bias 0',
        'ap': 'AP Loss',
        'rs-ones': 'RS Loss, all IoUs 1',
        'rs': 'RS Loss',
        'unbalanced': 'BRS Loss without self-balancing',
        'brs': 'BRS Loss',
    }
}
KEYS = ['detector', 'label']


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
    runs, trials, differences = (_read(folder / name) for name in FILES)
    losses = pd.concat([runs, trials])[[*KEYS, 'loss']].drop_duplicates()
    shown = NAMES.get(folder.name, {})
    losses = losses.sort_values('label', key=lambda labels: labels.map([*shown].index)) if shown else losses
    names = losses.set_index(KEYS).loss
    factors = sorted(trials.factor.unique()) if len(trials) else []
    several = losses.detector.nunique() > 1
    head = (['detector'] if several else []) + ['loss'] + _head_of_trials(factors)
    rare = CLASSES.get(folder.name)
    if len(runs):
        head += ['seeds', 'AP', *([f'AP of {rare}'] if rare else []), 'BRS minus this loss']
    lines = []
    for detector, label, name in losses.itertuples(index=False):
        line = ([detector] if several else []) + [shown.get(label, name)]
        of_loss = _of(trials, detector, label)
        best = of_loss.dropna(subset='AP').nlargest(1, 'AP') if factors else of_loss
        line += [_trial(of_loss[of_loss.factor == factor], best) for factor in factors]
        if len(runs):
            seeds = _of(runs, detector, label)
            line += [_seeds(seeds.seed), spread(seeds, 'AP'), *([spread(seeds, rare)] if rare else [])]
            line.append(_difference(differences, detector, names.get((detector, BRS)), name))
        lines.append(line)
    return markdown(head, lines)


def _read(path: Path) -> pd.DataFrame:
    """A table of a study; one without rows if there is none."""
    if not path.is_file():
        return pd.DataFrame(columns=[*KEYS, 'loss'])
    empty = {quantity: [''] for quantity in ('AP', *CLASSES.values())}
    return pd.read_csv(path, keep_default_na=False, na_values=empty, dtype={'seeds': str})


def _of(table: pd.DataFrame, detector: str, label: str) -> pd.DataFrame:
    return table[(table.detector == detector) & (table.label == label)]


def _head_of_trials(factors: Sequence[float]) -> list[str]:
    if not factors:
        return []
    first, *others = (f'at {factor:g} \N{MULTIPLICATION SIGN}' for factor in factors)
    return [f'AP {first} the learning rate', *others]


def _trial(trial: pd.DataFrame, best: pd.DataFrame) -> str:
    """The AP of the trial with a learning rate; bold if it is the best one of its loss."""
    if trial.empty:
        return ''
    text = trial.outcome.iloc[0] if trial.AP.isna().all() else f'{trial.AP.iloc[0]:.3f}'
    return f'**{text}**' if trial.index.equals(best.index) else text


def _difference(differences: pd.DataFrame, detector: str, brs: str | None, other: str) -> str:
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
            seeds = row.seeds.split()
            verdict = f'seed {seeds[0]} only' if len(seeds) == 1 else f'{verdict} (seeds {_seeds(seeds)})'
            return f'{mean} [{_signed(low)}, {_signed(high)}], {verdict}'
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
