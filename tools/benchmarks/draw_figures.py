"""Draw the figures of the docs again from the tables next to them; nothing is measured or trained.

python tools/benchmarks/draw_figures.py [NAME ...] [--docs docs] [--out DIR]

NAME (default: all):

    headline         time and memory over the number of logits, and AP of BRS Loss against the detectors' own losses,
                     without the playing cards
    small_data_ap    AP on all sets
    query_detectors  AP of detectors with queries over the epochs, from figures/query_detectors.csv
    fair_study_epochs AP over the epochs of short and long training runs, from study/cards_atss and study/cards_atss_36e
    fair_study_bccd  AP over the epochs on BCCD, a panel for each detector, from study/bccd_*
    fair_study_imbalance AP with fewer objects of the rarest class and with more anchors, from study/shapes_imbalance
    benchmark_time   time over the number of logits
    benchmark_memory peak memory over the number of logits
    gpu_time         time over the number of logits on a GPU, from figures/gpu/benchmark.csv
    ap_against_time  of the study in docs/study
    gradients        of the study in docs/study

The tables are figures/scaling.csv (of tools/benchmarks/benchmark_losses.py --curve) or, where there is none,
figures/benchmark.csv; figures/small_data_ap.csv, which has the numbers of docs/results.md; study/study.csv and
study/gradients.csv. Figures of trained detectors are drawn by the verbs of ``bucketed-losses``; the docs name the
command under each of them.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'gpu'))

import benchmark_figures
import report_benchmark
import report_fair_study
from drawing import draw_times
from tables import read_csv

from bucketed_losses.figure_style import (
    GUIDE,
    Look,
    figure_style,
    label_lines,
    look_of,
    looks_of,
    new_figure,
    new_panels,
    save,
)

# Shown in the headline, with the words for readers who have not read the paper.
COST_LOSSES = {
    'RS by loop': 'loop over positives',
    'BRS by matrices': 'P\N{MULTIPLICATION SIGN}B matrices',
    'RS': 'RS, exact',
    'BRS': 'BRS',
    'cross-entropy': 'cross-entropy',
}
Pair = dict[str, str]
# Studies in docs/study, with the titles of their panels in a figure; None is the name of the detector.
SCHEDULES = {'cards_atss': '12 epochs', 'cards_atss_36e': '36 epochs'}
ON_BCCD = {name: None for name, data in report_fair_study.OVERVIEW.items() if data == 'BCCD'}
# What study/shapes_imbalance varies: its detectors, and what the figure calls them. Both columns have the baseline.
IMBALANCE = {
    'share of the stars': {'all stars': 'all', '1 of 2 stars': '1/2', '1 of 4 stars': '1/4', '1 of 8 stars': '1/8'},
    'anchors per location': {'1 anchor': '1', 'all stars': '3', '9 anchors': '9'},
}
CARDS = 'playing cards'
# Of AP: about the length of an arrow's head. A smaller difference is a dot of the colour of BRS Loss.
SHORTEST_ARROW = 0.01
# Of AP: the pages call a difference of at most this level. Numbers of larger gains have the colour of BRS Loss.
LEVEL = 0.005


def read_pairs(path: Path) -> list[Pair]:
    """The rows of small_data_ap.csv, by data set and then by gain, the largest first."""
    with path.open(newline='') as file:
        pairs = list(csv.DictReader(file))
    order = list(dict.fromkeys(pair['data'] for pair in pairs))
    return sorted(pairs, key=lambda pair: (order.index(pair['data']), -gain_of(pair)))


def gain_of(pair: Pair) -> float:
    """AP with BRS Loss minus AP with the detector's own loss."""
    return round(float(pair['BRS_AP']) - float(pair['stock_AP']), 4)


def draw_cost(axis: Any, rows: list[report_benchmark.Row], quantity: str) -> None:
    """Draw 'milliseconds' or 'peak_bytes' over the number of logits; the labels have the values of the last points."""
    names = [name for name in COST_LOSSES if any(row['loss'] == name and row.get(quantity) for row in rows)]
    ends = benchmark_figures.draw_quantity(axis, rows, quantity, names)
    values = [
        report_benchmark.seconds(value / 1000) if quantity == 'milliseconds' else report_benchmark.bytes_of(value)
        for _, value in ends
    ]
    last = max(size for size, _ in ends)
    values = [
        value if size == last else f'{value} at {report_benchmark.short(size)}'
        for value, (size, _) in zip(values, ends, strict=True)
    ]
    labels = [f'{COST_LOSSES[name]}: {value}' for name, value in zip(names, values, strict=True)]
    label_lines(axis, labels, [look_of(name) or Look(GUIDE) for name in names], ends)


def draw_pairs(axis: Any, pairs: Sequence[Pair]) -> None:
    """Draw an arrow for each detector, from AP with its own loss to AP with BRS Loss; data sets are set apart."""
    brs, stock = look_of('BRS') or Look(GUIDE), look_of('stock') or Look(GUIDE)
    lines: list[tuple[str, Pair | None]] = []
    for data in dict.fromkeys(pair['data'] for pair in pairs):
        lines.append((f'on {data}', None))
        lines += [(pair['detector'], pair) for pair in pairs if pair['data'] == data]
    for height, (_, pair) in enumerate(lines):
        if pair is None:
            continue
        before, after = float(pair['stock_AP']), float(pair['BRS_AP'])
        axis.plot(before, height, marker='o', markersize=6, color=stock.color, zorder=3)
        gain = gain_of(pair)
        if abs(gain) < SHORTEST_ARROW:
            axis.plot(after, height, marker='o', markersize=4, color=brs.color, zorder=4)
        else:
            axis.annotate(
                '', (after, height), (before, height), zorder=4, arrowprops=dict(
                    arrowstyle='-|>', mutation_scale=11, color=brs.color, linewidth=2.2, shrinkA=0, shrinkB=0
                ),
            )  # fmt: skip
        axis.annotate(
            f'{gain:+.3f}'.replace('-', '\N{MINUS SIGN}'), (max(before, after), height), (11, 0), va='center',
            textcoords='offset points', color=brs.ink if gain > LEVEL else stock.ink,
            fontweight='bold' if gain > LEVEL else 'normal',
        )  # fmt: skip
    axis.set_yticks(range(len(lines)), [text for text, _ in lines])
    for label, (_, pair) in zip(axis.get_yticklabels(), lines, strict=True):
        label.set_fontweight('bold' if pair is None else 'normal')
    axis.tick_params(axis='y', length=0)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    values = [float(pair[key]) for pair in pairs for key in ('stock_AP', 'BRS_AP')]
    axis.set_xlim(min(values) - 0.015, max(values) + 0.05)
    axis.grid(visible=False, axis='y')
    axis.set_title('AP: own loss of the detector (dot), BRS Loss (arrow)', loc='right')
    axis.set_xlabel('AP on small data, trained by us (not COCO)')


@figure_style()
def draw_headline(docs: Path, out: Path) -> None:
    """Cost on the left, AP on the right.

    The cards are left out: the large gains there may come from the learning rate, which was not tuned, and README,
    which shows this figure, does not say so.
    """
    rows, share = _cost_rows(docs)
    pairs = [pair for pair in read_pairs(docs / 'figures/small_data_ap.csv') if pair['data'] != CARDS]
    figure, grid = new_figure(2, 2, (11.0, 6.6), width_ratios=[1, 1.05])
    spec = grid[0, 1].get_gridspec()
    for axis in grid[:, 1]:
        axis.remove()
    draw_pairs(figure.add_subplot(spec[:, 1]), pairs)
    time, memory = grid[:, 0]
    time.set(title='Time of forward and backward', ylabel='milliseconds')
    memory.set(title='Peak memory beyond the inputs', ylabel='bytes', xlabel='number of logits')
    threads = 'one thread' if rows[0]['threads'] == '1' else f'{rows[0]["threads"]} threads'
    note = f'Left: {report_benchmark.percent(share)} of the logits are positives; {rows[0]["device"]}, {threads}.'
    if any(report_benchmark.estimate_of(row, quantity) for row in rows for quantity in benchmark_figures.QUANTITIES):
        note += ' Hollow circles: estimated, not run.'
    seeds = sorted({int(pair[f'{which}_seeds']) for pair in pairs for which in ('stock', 'BRS')})
    figure.supxlabel(f'{note} Right: {seeds[0]} to {seeds[-1]} seeds for each detector.', fontsize=10)
    draw_cost(time, rows, 'milliseconds')
    draw_cost(memory, rows, 'peak_bytes')
    save(figure, out)


@figure_style()
def draw_small_data_ap(docs: Path, out: Path) -> None:
    """AP on all sets, the cards included."""
    pairs = read_pairs(docs / 'figures/small_data_ap.csv')
    figure, axes = new_figure(1, 1, (7.2, 1.2 + 0.2 * len(pairs)))
    draw_pairs(axes[0, 0], pairs)
    save(figure, out)


@figure_style()
def draw_query_detectors(docs: Path, out: Path) -> None:
    """A panel for each detector and data set, three in a row; thin lines are seeds, thick ones their means."""
    import pandas as pd

    table = pd.read_csv(docs / 'figures/query_detectors.csv')
    panels = [
        (f'{detector}, {data}', runs)
        for detector, of_detector in table.groupby('detector', sort=False)
        for data, runs in of_detector.groupby('data', sort=False)
    ]
    figure, axes = new_panels(len(panels), (3.4, 3.4))
    for axis, (title, runs) in zip(axes, panels, strict=True):
        axis.set(title=title, xlabel='epoch', ylabel='AP', xticks=sorted(set(runs.epoch)))
        looks = looks_of(list(runs.loss.unique()))
        ends = []
        for loss, look in looks.items():
            ap = runs[runs.loss == loss].pivot(index='epoch', columns='seed', values='AP')
            axis.plot(ap, **{**look.line, 'linewidth': 0.8}, alpha=0.6)
            means = ap.mean(axis='columns')
            axis.plot(means, marker='o', markersize=3.5, **look.line)
            ends.append((float(means.index[-1]), float(means.iloc[-1])))
        label_lines(axis, list(looks), list(looks.values()), ends)
    save(figure, out)


@figure_style()
def draw_ap_over_epochs(titles: Mapping[str, str | None], docs: Path, out: Path) -> None:
    """AP over the epochs: a panel for each study of a fair study, lines are means over seeds, shades their range."""
    import pandas as pd

    from bucketed_losses.study.figures import draw_curves

    panels = []
    for folder in titles:
        study = docs / 'study' / folder
        compared = pd.read_csv(study / 'study.csv')[['detector', 'label', 'seed']]  # the trials have another seed
        panels.append(pd.read_csv(study / 'epochs.csv').merge(compared).rename(columns={'epoch': 'step'}))
    runs = pd.concat(panels)
    looks = looks_of(dict.fromkeys(runs.label))
    size, columns = ((4.4, 3.8), 3) if len(panels) == 3 else ((5.4, 4.2), 2)
    figure, axes = new_panels(len(panels), size, columns=columns)
    for axis, own, title in zip(axes, panels, titles.values(), strict=True):
        last = own.step.max()
        axis.set(title=title or own.detector.iloc[0], xlabel='epoch', ylabel='AP on the validation images')
        axis.set(xticks=[last * part // 4 for part in range(1, 5)], ylim=(runs.AP.min() - 0.02, runs.AP.max() + 0.02))
        draw_curves(axis, own, dict(zip(own.label, own.loss, strict=True)), looks)
    save(figure, out)


@figure_style()
def draw_fair_study_imbalance(docs: Path, out: Path) -> None:
    """AP of the rarest class above, AP of all classes below: a column for what varies, bars are the range of seeds."""
    import pandas as pd

    study = docs / 'study/shapes_imbalance'
    rare = report_fair_study.CLASSES[study.name]
    runs = pd.read_csv(study / 'study.csv')
    runs = runs[runs.label.isin(('stock', 'brs'))]  # others were not trained everywhere
    names = dict(zip(runs.label, runs.loss, strict=True))
    looks = looks_of(names)
    figure, grid = new_figure(2, 2, (8.8, 6.6), sharey='row')
    drawn = []
    for column, (varied, settings) in enumerate(IMBALANCE.items()):
        for axis, quantity in zip(grid[:, column], (rare, 'AP'), strict=True):
            ends = []
            for label, look in looks.items():
                of_loss = runs[runs.label == label].groupby('detector')[quantity]
                ap = of_loss.agg(['mean', 'min', 'max']).loc[[*settings]]
                spread = [ap['mean'] - ap['min'], ap['max'] - ap['mean']]
                axis.errorbar(range(len(ap)), ap['mean'], spread, marker='o', markersize=3.5, capsize=3, **look.line)
                ends.append((len(ap) - 1.0, float(ap['mean'].iloc[-1])))
            axis.set(xticks=range(len(settings)), xticklabels=list(settings.values()), xlabel=varied)
            drawn.append((axis, ends))
    grid[0, 0].set_ylabel(f'AP of {rare}s')
    grid[1, 0].set_ylabel('AP of all classes')
    for axis, ends in drawn:  # only now, since the limits of a row are those of both columns
        label_lines(axis, list(names.values()), list(looks.values()), ends)
    save(figure, out)


def _cost_rows(docs: Path) -> tuple[list[report_benchmark.Row], float]:
    """The rows to draw, and their share of positives."""
    scaling = docs / 'figures/scaling.csv'
    share = 0.001 if scaling.exists() else 0.01
    rows = report_benchmark.read(scaling if scaling.exists() else docs / 'figures/benchmark.csv')
    return benchmark_figures.at_share(rows, share), share


def _draw_benchmark(quantity: str) -> Callable[[Path, Path], None]:
    def draw(docs: Path, out: Path) -> None:
        rows = report_benchmark.read(docs / 'figures/benchmark.csv')
        benchmark_figures.draw(benchmark_figures.at_share(rows, benchmark_figures.FIGURE_SHARE), quantity, out)

    return draw


def _draw_ap_against_time(docs: Path, out: Path) -> None:
    from bucketed_losses.study.figures import draw_ap_against_time
    from bucketed_losses.study.store import read_table

    draw_ap_against_time(read_table(docs / 'study/study.csv'), out)


def _draw_gradients(docs: Path, out: Path) -> None:
    import pandas as pd

    from bucketed_losses.study.figures import draw_gradients

    draw_gradients(pd.read_csv(docs / 'study/gradients.csv'), out)


def _draw_gpu_time(docs: Path, out: Path) -> None:
    draw_times(read_csv(docs / 'figures/gpu/benchmark.csv'), out)


FIGURES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    'headline': ('figures/headline.png', draw_headline),
    'small_data_ap': ('figures/small_data_ap.png', draw_small_data_ap),
    'query_detectors': ('figures/query_detectors.png', draw_query_detectors),
    'fair_study_epochs': ('figures/fair_study_epochs.png', partial(draw_ap_over_epochs, SCHEDULES)),
    'fair_study_bccd': ('figures/fair_study_bccd.png', partial(draw_ap_over_epochs, ON_BCCD)),
    'fair_study_imbalance': ('figures/fair_study_imbalance.png', draw_fair_study_imbalance),
    'benchmark_time': ('figures/benchmark_time.png', _draw_benchmark('milliseconds')),
    'benchmark_memory': ('figures/benchmark_memory.png', _draw_benchmark('peak_bytes')),
    'gpu_time': ('figures/gpu_time.png', _draw_gpu_time),
    'ap_against_time': ('study/ap_against_time.png', _draw_ap_against_time),
    'gradients': ('study/gradients.png', _draw_gradients),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'one of {", ".join(FIGURES)}')
    parser.add_argument('--docs', type=Path, default=Path('docs'), help='folder of the docs (default: docs)')
    parser.add_argument('--out', type=Path, help='folder to write to (default: the folder of the docs)')
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(FIGURES):
        parser.error(f'unknown figure {", ".join(sorted(unknown))}; choose from {", ".join(FIGURES)}')
    for name in args.names or FIGURES:
        path, draw = FIGURES[name]
        out = (args.out or args.docs) / path
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(args.docs, out)
        print(f'wrote {out}')


if __name__ == '__main__':
    main()
