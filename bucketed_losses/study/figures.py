"""The figures of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from .logs import read_metrics
from .names import ORDER
from .outcomes import FINISHED
from .plan import EQUAL_TIME
from .store import Study

matplotlib.use('Agg')
import matplotlib.pyplot as plt

COLORS = dict(zip(ORDER, plt.get_cmap('tab10').colors, strict=False))


def draw_ap_over_epochs(study: Study, out: Path) -> None:
    """A panel for each detector; lines are means over seeds, shades their range."""
    rows = [
        dict(detector=result['detector'], label=result['loss'], step=step, AP=metrics.get('AP', 0.0))
        for result in study.results()
        if result['outcome'] == FINISHED
        for step, metrics in read_metrics(study.folder(result['detector'], result['loss'], result['seed']))
    ]
    if not rows:
        return
    by_detector = pd.DataFrame(rows).groupby('detector', sort=False)
    figure, axes = _grid(by_detector.ngroups, (4.8, 3.6))
    for (detector, of_detector), axis in zip(by_detector, axes, strict=True):
        for label, of_loss in of_detector.groupby('label', sort=False):
            ap = of_loss.groupby('step').AP.agg(['mean', 'min', 'max'])
            axis.plot(
                ap.index, ap['mean'], label=study.name_of(detector, label), color=COLORS.get(label), marker='o',
                markersize=3.5, linewidth=1.7,
            )  # fmt: skip
            color = axis.lines[-1].get_color()
            axis.fill_between(ap.index, ap['min'], ap['max'], color=color, alpha=0.15, linewidth=0)
        unit = 'epoch' if study.counts_epochs(detector, of_detector.label.iloc[0]) else 'iteration'
        axis.set(title=detector, xlabel=unit, ylabel='AP')
        axis.legend(frameon=False, fontsize=8)
    _save(figure, out)


def draw_ap_against_time(table: pd.DataFrame, out: Path) -> None:
    """A point for each loss, a panel for each detector; bars are the range of the seeds."""
    drawn = table[(table.label != EQUAL_TIME) & table.AP.notna() & table['seconds per iteration'].notna()]
    if drawn.empty:
        return
    by_detector = drawn.groupby('detector', sort=False)
    figure, axes = _grid(by_detector.ngroups, (4.8, 3.6))
    for (detector, of_detector), axis in zip(by_detector, axes, strict=True):
        for (label, loss), group in of_detector.groupby(['label', 'loss'], sort=False):
            middle = group.AP.mean()
            axis.errorbar(
                group['seconds per iteration'].iloc[0], middle, [[middle - group.AP.min()], [group.AP.max() - middle]],
                color=COLORS.get(label), label=loss, marker='o', capsize=3, linestyle='none',
            )  # fmt: skip
        axis.margins(x=0.15, y=0.15)
        axis.set(title=detector, xlabel='seconds per iteration', ylabel='AP')
        axis.legend(frameon=False, fontsize=8)
    _save(figure, out)


def draw_gradients(gradients: pd.DataFrame, out: Path) -> None:
    """A panel for each head and source of logits, a line for each loss over early, middle and late."""
    if gradients.empty:
        return
    panels = gradients.groupby(['detector', 'place', 'logits_of'], sort=False)
    figure, axes = _grid(panels.ngroups, (4.6, 3.4))
    for ((detector, place, logits_of), panel), axis in zip(panels, axes, strict=True):
        for index, (loss, line) in enumerate(panel.groupby('loss', sort=False)):
            axis.plot(range(len(line)), line.share, marker='o', markersize=3.5, label=loss, color=f'C{index}')
        axis.axhline(0.5, color='gray', linewidth=0.8, linestyle=':')
        axis.set(title=f'{detector}, {place}\nlogits of {logits_of}', ylim=(-0.03, 1.03))
        axis.set(ylabel='share of the gradient on positives')
        axis.title.set_fontsize(9)
        moments = panel.moment.unique()
        axis.set_xticks(range(len(moments)), moments)
    axes[0].legend(frameon=False, fontsize=8, ncol=2)
    _save(figure, out)


def _grid(number: int, size: tuple[float, float], columns: int = 3) -> tuple[Any, list[Any]]:
    columns = min(number, columns)
    lines = -(-number // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(size[0] * columns, size[1] * lines), squeeze=False, layout='constrained'
    )
    flat = list(axes.flat)
    for axis in flat[number:]:
        axis.set_visible(False)
    for axis in flat[:number]:
        axis.grid(alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
    return figure, flat[:number]


def _save(figure: Any, out: Path) -> None:
    figure.savefig(out, dpi=120)
    plt.close(figure)
