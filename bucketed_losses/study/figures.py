"""The figures of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..figure_style import GUIDE, Look, figure_style, label_lines, look_of, looks_of, new_figure, new_panels, save
from .differences import main_pairs
from .logs import read_metrics, with_ap
from .outcomes import FINISHED
from .plan import EQUAL_TIME, STOCK
from .store import Study


@figure_style()
def draw_ap_over_epochs(study: Study, out: Path) -> None:
    """A panel for each detector; lines are means over seeds, shades their range."""
    rows = [
        dict(detector=result['detector'], label=result['loss'], step=step, AP=with_ap(metrics)['AP'])
        for result in study.results()
        if result['outcome'] == FINISHED
        for step, metrics in read_metrics(study.folder(result['detector'], result['loss'], result['seed']))
    ]
    if not rows:
        return
    by_detector = pd.DataFrame(rows).groupby('detector', sort=False)
    figure, axes = new_panels(by_detector.ngroups, (5.4, 4.2))
    for (detector, of_detector), axis in zip(by_detector, axes, strict=True):
        unit = 'epoch' if study.counts_epochs(detector, of_detector.label.iloc[0]) else 'iteration'
        axis.set(title=detector, xlabel=unit, ylabel='AP on the validation images')
        draw_curves(axis, of_detector, {label: study.name_of(detector, label) for label in of_detector.label.unique()})
    save(figure, out)


def draw_curves(
    axis: Any, runs: pd.DataFrame, names: Mapping[str, str], looks: Mapping[str, Look] | None = None
) -> None:
    """A line for each loss, the mean over its seeds, and a shade for their range.

    Args:
        axis: Where to draw.
        runs: The columns ``label``, ``step`` and ``AP``, with a row for each validation of each seed.
        names: The losses to draw, in their order, and what the figure calls them.
        looks: The look of each, for panels with different losses; None for those that tell these losses apart.
    """
    looks = looks_of(names) if looks is None else looks
    ends = []
    for label in names:
        look = looks[label]
        ap = runs[runs.label == label].groupby('step').AP.agg(['mean', 'min', 'max'])
        axis.plot(ap.index, ap['mean'], marker='o', markersize=3.5, **look.line)
        axis.fill_between(ap.index, ap['min'], ap['max'], color=look.color, alpha=0.15, linewidth=0)
        ends.append((float(ap.index[-1]), float(ap['mean'].iloc[-1])))
    label_lines(axis, list(names.values()), [looks[label] for label in names], ends)


@figure_style()
def draw_ap_against_time(table: pd.DataFrame, out: Path) -> None:
    """A point for each loss, a panel for each detector; bars are the range of the seeds."""
    drawn = table[(table.label != EQUAL_TIME) & table.AP.notna() & table['seconds per iteration'].notna()]
    if drawn.empty:
        return
    by_detector = drawn.groupby('detector', sort=False)
    figure, axes = new_panels(by_detector.ngroups, (4.8, 4.0))
    for (detector, of_detector), axis in zip(by_detector, axes, strict=True):
        labels = list(of_detector.label.unique())
        looks = list(looks_of(labels).values())
        points, names = [], []
        for label, look in zip(labels, looks, strict=True):
            group = of_detector[of_detector.label == label]
            middle, seconds = group.AP.mean(), group['seconds per iteration'].iloc[0]
            axis.errorbar(
                seconds, middle, [[middle - group.AP.min()], [group.AP.max() - middle]], color=look.color,
                marker='o', markersize=9 if label == 'brs' else 6, capsize=3, linestyle='none', zorder=look.zorder,
            )  # fmt: skip
            points.append((seconds, middle))
            names.append(group.loss.iloc[0])
        axis.margins(y=0.15)
        axis.set_xlim(0, 1.15 * max(seconds for seconds, _ in points))
        axis.set(title=detector, xlabel='seconds per iteration', ylabel='AP on the validation images')
        label_lines(axis, names, looks, points)
    save(figure, out)


@figure_style()
def draw_differences(differences: pd.DataFrame, out: Path) -> None:
    """A panel for each detector, a row for each of the main pairs of losses: the difference of AP and its interval."""
    if differences.empty:
        return
    differences = main_pairs(differences)
    by_detector = differences.groupby('detector', sort=False)
    most = by_detector.size().max()
    figure, axes = new_panels(by_detector.ngroups, (5.4, 0.3 * most + 1.6), columns=1)
    for (detector, pairs), axis in zip(by_detector, axes, strict=True):
        rows = range(len(pairs))
        middle = pairs['difference of AP']
        axis.axvline(0.0, color=GUIDE, linewidth=1.0, linestyle='--', zorder=1)
        for row, loss in zip(rows, pairs.loss, strict=True):
            look = look_of(loss) or Look(GUIDE)
            one = pairs.iloc[row]
            axis.plot([one.low, one.high], [row, row], color=look.color, linewidth=1.6, zorder=2)
            axis.plot(middle.iloc[row], row, marker='o', color=look.color, markersize=5, zorder=3)
        axis.set_yticks(
            rows,
            [f'{first} against {second}' for first, second in zip(pairs.loss, pairs['compared with'], strict=True)],
        )
        axis.set_ylim(len(pairs) - 0.5, -0.5)
        axis.grid(visible=False, axis='y')
        axis.locator_params(axis='x', nbins=6)
        axis.set(title=detector, xlabel='difference of AP')
    save(figure, out)


@figure_style()
def draw_gradients(gradients: pd.DataFrame, out: Path) -> None:
    """The share of the gradient on positives, a row for each loss, a panel for each source of logits.

    A row has a dot for each head and each moment of the training. The left panel is of logits that the detector's own
    losses have trained, every further panel of logits of another loss.
    """
    if gradients.empty:
        return
    sources = list(gradients.source.unique())
    losses = list(gradients.loss.unique())
    figure, axes = new_figure(1, len(sources), (4.2 * len(sources) + 0.8, 0.42 * len(losses) + 1.9), sharey=True)
    for source, axis in zip(sources, axes[0], strict=True):
        of_source = gradients[gradients.source == source]
        places = list(dict.fromkeys(zip(of_source.detector, of_source.place, strict=True)))
        axis.axvline(0.5, color=GUIDE, linewidth=1.0, linestyle='--', zorder=1)
        for row, loss in enumerate(losses):
            look = look_of(loss) or Look(GUIDE)
            of_loss = of_source[of_source.loss == loss]
            for index, (detector, place) in enumerate(places):
                shares = of_loss[(of_loss.detector == detector) & (of_loss.place == place)].share
                height = row + (index - (len(places) - 1) / 2) * 0.5 / max(len(places), 1)
                size = 34 if look.linewidth > 2.5 else 20
                axis.scatter(shares, np.full(len(shares), height), s=size, color=look.color, zorder=3, linewidths=0)
        whose = "the detector's own losses" if source == STOCK else f'{of_source.logits_of.iloc[0]} Loss'
        axis.set(title=f'logits trained with\n{whose}', xlim=(-0.03, 1.03))
        axis.grid(visible=False, axis='y')
    axes[0][0].set_yticks(range(len(losses)), losses)
    axes[0][0].set_ylim(len(losses) - 0.5, -0.5)
    figure.supxlabel(
        'share of the gradient on positives\n(a dot: one head, early, middle or late in the training)', fontsize=11
    )
    save(figure, out)
