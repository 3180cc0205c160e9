"""The report of a study: ``study.md``, its figures, and CSV files with runs, trials, differences and gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .differences import differences_section, differences_table
from .figures import draw_ap_against_time, draw_ap_over_epochs, draw_differences, draw_gradients
from .markdown import collapsed, markdown_table
from .outcomes import FINISHED
from .plan import EQUAL_TIME
from .store import AP_COLUMNS, COLUMNS, Study, gradients_table, groups, results_table, write_table
from .tuning import tuning_section, tuning_table

# The image with its alternative text, and the caption.
_FIGURES = {
    'ap_against_time.png': (
        '![For each detector, AP over the seconds of one iteration, one point for each loss](ap_against_time.png)',
        '*Higher is more accurate, further left is faster. The time axis starts at zero, so that losses of equal cost '
        'lie above each other. Bars show the range of the seeds. Made by `bucketed-losses compare`.*',
    ),
    'ap_over_epochs.png': (
        '![For each detector, AP on the validation images over the training, one line for each loss]'
        '(ap_over_epochs.png)',
        '*Which loss learns fastest, and which one ends highest. Lines are means over the seeds, and shaded areas are '
        'their range. Made by `bucketed-losses compare`.*',
    ),
    'gradients.png': (
        '![Share of the gradient that falls on positives, one row for each loss, one panel for each source of logits]'
        '(gradients.png)',
        '*A loss whose dots lie at 0.5 in every panel gives positives and negatives the same weight, whatever the '
        'logits are. Made by `bucketed-losses compare`.*',
    ),
}


def write_report(study: Study) -> None:
    """Write the CSV files, the page and the figures. If there is no result, write nothing."""
    table = results_table(study)
    if table.empty:
        if study.results(trials=True):
            write_table(tuning_table(study), study.root / 'tuning.csv')
        return
    write_table(table, study.root / 'study.csv')
    tables = {
        'gradients': gradients_table(study),
        'tuning': tuning_table(study),
        'differences': differences_table(study),
    }
    for name, measured in tables.items():
        if not measured.empty:
            write_table(measured, study.root / f'{name}.csv')
    gradients = tables['gradients']
    draw_ap_over_epochs(study, study.root / 'ap_over_epochs.png')
    draw_ap_against_time(table, study.root / 'ap_against_time.png')
    draw_differences(tables['differences'], study.root / 'differences.png')
    draw_gradients(gradients, study.root / 'gradients.png')
    aside = study.root / '.study.md'
    aside.write_text(page(study, table, **tables))
    aside.replace(study.root / 'study.md')


def page(
    study: Study, table: pd.DataFrame, gradients: pd.DataFrame, tuning: pd.DataFrame, differences: pd.DataFrame
) -> str:
    """The page in Markdown, in the layout of the paper's Tables 4, 5, 7 and 8."""
    parts = [
        *accuracy_sections(table),
        *differences_section(differences),
        *tuning_section(tuning),
        *_equal_time(study, table),
        *_gradients(gradients),
        *_without_result(table),
    ]
    return '\n\n'.join(parts) + '\n'


def accuracy_sections(table: pd.DataFrame) -> list[str]:
    """The sections of the page that the table of results alone determines: accuracy, time and hyper-parameters."""
    main = table[table.label != EQUAL_TIME]
    budgets = sorted(set(main.detector + ': ' + main.budget))
    parts = [
        '# Comparison of losses',
        'All losses of a detector have the same data and schedule; the column seeds names their seeds. Budget: '
        f'{"; ".join(budgets)}. AP is that of the last validation; for several seeds, it is the mean ± the sample '
        'standard deviation.',
        '## Accuracy, time and hyper-parameters',
        'T_iter is the time of one iteration. In the losses: the time of its classification losses, forward and '
        'backward. Both are medians; the losses of a detector take turns. #H is the number of hyper-parameters, where '
        'the paper counts them. Memory is the peak of a run.',
        markdown_table(
            ['Detector', 'Loss', 'T_iter (s) ↓', 'in the losses (s)', 'AP ↑', '#H', 'memory (MB)', 'seeds'],
            [
                [
                    first.detector,
                    first.loss,
                    _number(first['seconds per iteration'], '.2f'),
                    _number(first['seconds in the losses'], '.4f'),
                    spread(group, 'AP'),
                    _number(first['hyper-parameters'], 'd'),
                    str(group['peak memory (MB)'].max()),
                    ', '.join(map(str, group.seed)),
                ]
                for first, group in groups(table)
            ],
        ),
        *_FIGURES['ap_against_time.png'],
        '## Accuracy in full',
        collapsed('AP, AP50, AP75 and AP by size', _spreads(table, AP_COLUMNS)),
        *_FIGURES['ap_over_epochs.png'],
    ]
    classes = [column for column in table if column not in COLUMNS]
    if classes:
        parts += ['## AP per class', collapsed('AP of every class', _spreads(table, classes))]
    return parts


def spread(group: pd.DataFrame, column: str) -> str:
    """Mean ± sample standard deviation over the seeds; in the column AP also the runs that did not finish."""
    values = group[column].dropna()
    lost = group.outcome[group.outcome != FINISHED]
    cells = []
    if len(values):
        cells.append(f'{values.mean():.3f}' + (f' ± {values.std():.3f}' if len(values) > 1 else ''))
    if len(lost) and column == 'AP':
        cells.append(f'{len(lost)} {lost.iloc[0]}' if len(values) else lost.iloc[0])
    return ', '.join(cells)


def _spreads(table: pd.DataFrame, columns: Sequence[str]) -> str:
    lines = [
        [first.detector, first.loss, *(spread(group, column) for column in columns)] for first, group in groups(table)
    ]
    return markdown_table(['Detector', 'Loss', *columns], lines)


def _number(value: float | None, digits: str) -> str:
    return '' if pd.isna(value) else f'{value:{digits}}'


def _equal_time(study: Study, table: pd.DataFrame) -> list[str]:
    lines = []
    for detector in table.detector[table.label == EQUAL_TIME].unique():
        by_loop, fast = study.equal_time(detector) or (float('nan'),) * 2
        seconds = {'rs': f'{by_loop:.2f} (by loop)', 'brs': f'{fast:.2f}', EQUAL_TIME: f'{fast:.2f}'}
        for label, name in (('rs', 'RS'), ('brs', 'BRS'), (EQUAL_TIME, 'BRS')):
            group = table[(table.detector == detector) & (table.label == label)]
            if len(group):
                spreads = [spread(group, column) for column in ('AP', 'AP50', 'AP75')]
                lines.append([detector, name, group.budget.iloc[0], seconds[label], *spreads])
    if not lines:
        return []
    return [
        '## Equal time',
        'With the published loop over positives, timed on the same inputs, RS Loss would take this long per iteration. '
        'BRS Loss is trained for as many epochs as fit into the time of RS. Both times are from a measurement of their '
        'own, so they differ from those above, and only their ratio is used.',
        markdown_table(['Detector', 'Loss', 'budget', 'T_iter (s)', 'AP', 'AP50', 'AP75'], lines),
    ]


def _gradients(gradients: pd.DataFrame) -> list[str]:
    if gradients.empty:
        return []
    losses = list(gradients.loss.unique())
    cells = ['detector', 'place', 'logits_of', 'moment']
    lines = [
        [
            f'{detector}, {place}',
            logits_of,
            moment,
            f'1 : {group.negatives_per_positive.iloc[0]:.0f}',
            *(f'{share:.2f}' for share in group.set_index('loss').share[losses]),
        ]
        for (detector, place, logits_of, moment), group in gradients.groupby(cells, sort=False)
    ]
    return [
        '## Gradients on positives and on negatives',
        'Every loss is computed on the same logits: those of a run after its first, middle and last epoch, on training '
        'images. The numbers are the share of the gradient (sum of absolute values over logits) that falls on '
        'positives. At 0.5, all positives together have as much gradient as all negatives together.',
        *_FIGURES['gradients.png'],
        collapsed(
            'The shares in numbers',
            markdown_table(['Head', 'logits of', 'moment', 'positives : negatives', *losses], lines),
        ),
    ]


def _without_result(table: pd.DataFrame) -> list[str]:
    lost = table[table.outcome != FINISHED]
    lines = [f'- {row.detector}, {row.loss}, seed {row.seed}: {row.outcome}. {row.detail}' for row in lost.itertuples()]
    return ['## Runs without a result', '\n'.join(lines)] if lines else []
