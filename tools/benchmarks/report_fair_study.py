"""The tables of docs/fair_study.md, from the CSV files of studies in docs/study.

python tools/benchmarks/report_fair_study.py [STUDY ...] [--docs docs]

STUDY is the folder of a study of ``bucketed-losses compare``, for example work_dirs/study/cards_atss. Those of its
tables study.csv, differences.csv and tuning.csv that are there are copied to docs/study/cards_atss first, and the AP of
every validation is written to epochs.csv there. A study that was stopped may have its trials of learning rates only.
The page has a place for the table of each folder: between the comments ``cards_atss`` and ``end of cards_atss``. The
place ``overview`` has a row for each of the tuned studies.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
# The studies in the overview, with their data.
OVERVIEW = {
    'cards_atss': 'cards',
    'cards_atss_36e': 'cards',
    'bccd_atss': 'BCCD',
    'bccd_dino': 'BCCD',
    'bccd_deformable-detr': 'BCCD',
    'bccd_faster-rcnn': 'BCCD',
    'shapes_atss': 'drawn shapes',
}
# Its columns of losses: their heads by label.
LOSSES = {'stock': 'own loss', 'QFL': 'QFL', 'VFL': 'VFL', 'IA-BCE': 'IA-BCE', 'MAL': 'MAL', 'rs': 'RS', BRS: 'BRS'}
# What stands after the AP of a loss if BRS Loss is ahead of it, or behind it.
MARKS = {'ahead': ' \N{DOWNWARDS ARROW}', 'behind': ' \N{UPWARDS ARROW}'}
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


def overview_of(docs: Path) -> str:
    """A row for each detector of the studies in the overview, with the mean AP of each loss and what it means."""
    lines = []
    for folder, data in ((docs / 'study' / name, data) for name, data in OVERVIEW.items()):
        runs, _, differences = (_read(folder / name) for name in FILES)
        for detector, of_detector in runs.groupby('detector', sort=False):
            names = of_detector.drop_duplicates('label').set_index('label').loss
            means = of_detector.groupby('label').AP.mean().dropna().map('{:.3f}'.format)
            line = [data, detector, of_detector.budget.iloc[0].removesuffix(' epochs')]
            for label in LOSSES:
                pair = _pair(differences, detector, names.get(BRS), names.get(label))
                mark = MARKS.get(pair.verdict, '') if pair and len(pair.seeds) > 1 else ''
                text = means.get(label, 'no result' if label in names else '')
                line.append((f'**{text}**' if text == means.max() else text) + mark)
            lines.append(line)
    return markdown(['data', 'detector', 'epochs', *LOSSES.values()], lines)


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


class Pair(NamedTuple):
    """BRS Loss minus another loss: the mean difference, its interval, what it means, and the seeds."""

    mean: float
    low: float
    high: float
    verdict: str
    seeds: list[str]


def _pair(differences: pd.DataFrame, detector: str, brs: str | None, other: str | None) -> Pair | None:
    """A study names a pair in either order."""
    if differences.empty:
        return None
    of_detector = differences[differences.detector == detector]
    for first, second, sign in ((brs, other, 1), (other, brs, -1)):
        found = of_detector[(of_detector.loss == first) & (of_detector['compared with'] == second)]
        if len(found):
            row = found.iloc[0]
            low, high = sorted((sign * row.low, sign * row.high))
            verdict = row.verdict
            if sign < 0:
                verdict = {'ahead': 'behind', 'behind': 'ahead'}.get(verdict, verdict)
            return Pair(sign * row['difference of AP'], low, high, verdict, row.seeds.split())
    return None


def _difference(differences: pd.DataFrame, detector: str, brs: str | None, other: str) -> str:
    """The mean difference with its interval and what it means."""
    pair = _pair(differences, detector, brs, other)
    if pair is None:
        return ''
    verdict = f'{pair.verdict} (seeds {_seeds(pair.seeds)})' if len(pair.seeds) > 1 else f'seed {pair.seeds[0]} only'
    return f'{_signed(pair.mean)} [{_signed(pair.low)}, {_signed(pair.high)}], {verdict}'


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
    write_block(page, 'overview', overview_of(args.docs))
    print(f'wrote {page}')


if __name__ == '__main__':
    main()
