"""The tables of docs/fair_study.md, from the CSV files of studies in docs/study.

python tools/benchmarks/report_fair_study.py [STUDY ...] [--docs docs]

STUDY is the folder of a study of ``bucketed-losses compare``, for example work_dirs/study/cards_atss. Its study.csv,
differences.csv and, if there is one, tuning.csv are copied to docs/study/cards_atss first. The page has a place for the
table of each folder: between the comments ``cards_atss`` and ``end of cards_atss``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd
from page_blocks import write_block
from tables import markdown

FILES = ('study.csv', 'differences.csv', 'tuning.csv')
BRS = 'brs'


def copy_study(study: Path, docs: Path) -> None:
    """Copy the tables of a study into the docs."""
    folder = docs / 'study' / study.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (study / name).is_file():
            shutil.copy(study / name, folder / name)


def studies_of(docs: Path) -> list[Path]:
    """The folders of docs/study that hold a study."""
    return sorted(path.parent for path in (docs / 'study').glob('*/study.csv'))


def table_of(folder: Path) -> str:
    """A row for each loss: trials of learning rates if there are any, AP, and the difference of BRS Loss to it."""
    runs = pd.read_csv(folder / 'study.csv', keep_default_na=False, na_values={'AP': ['']})
    differences = pd.read_csv(folder / 'differences.csv', dtype={'seeds': str}, keep_default_na=False)
    trials = None
    if (folder / 'tuning.csv').is_file():
        trials = pd.read_csv(folder / 'tuning.csv', keep_default_na=False, na_values={'AP': ['']})
    factors = [] if trials is None else sorted(trials.factor.unique())
    several = runs.detector.nunique() > 1
    lines = []
    for (detector, label), group in runs.groupby(['detector', 'label'], sort=False):
        brs = runs[(runs.detector == detector) & (runs.label == BRS)].loss
        name = group.loss.iloc[0]
        lines.append(
            [
                *([detector] if several else []),
                name,
                *(_trial(trials, detector, label, factor) for factor in factors),
                _seeds(group.seed),
                _mean(group),
                '' if label == BRS or brs.empty else _difference(differences, detector, brs.iloc[0], name),
            ]
        )
    head = [f'at {factor:g} \N{MULTIPLICATION SIGN}' for factor in factors]
    if head:
        head[0] = f'AP {head[0]} the learning rate'
    return markdown([*(['detector'] if several else []), 'loss', *head, 'seeds', 'AP', 'BRS minus this loss'], lines)


def _trial(trials: pd.DataFrame, detector: str, label: str, factor: float) -> str:
    """The AP of a trial; that of the chosen learning rate is bold."""
    found = trials[(trials.detector == detector) & (trials.label == label) & (trials.factor == factor)]
    if found.empty:
        return ''
    trial = found.iloc[0]
    text = trial.outcome if pd.isna(trial.AP) else f'{trial.AP:.3f}'
    return f'**{text}**' if trial.chosen else text


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


def _seeds(seeds: object) -> str:
    """``0 to 4``, or the seeds one by one."""
    numbers = sorted(int(seed) for seed in seeds)  # type: ignore[attr-defined]
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
