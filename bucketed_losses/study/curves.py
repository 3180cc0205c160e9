"""Training curves of any runs, from MMEngine's logs: losses over iterations, and AP over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..figure_style import figure_style, label_lines, looks_of, new_figure, save
from .logs import read_metrics, read_scalars, with_ap

LOSSES = {
    'loss_rank': 'ranking',
    'loss_sort': 'sorting',
    'loss_cls': 'classification',
    'loss_bbox': 'box',
    'loss_centerness': 'centerness',
}


@figure_style()
def plot_curves(runs: Mapping[str, Sequence[str | Path]], out: str | Path, ap_only: bool = False) -> None:
    """Write a PNG with the losses of each run's first seed, and the AP of all runs (mean and range of the seeds).

    Args:
        runs: Work directories of the seeds of each run, by the run's name.
        out: The file.
        ap_only: Leave the losses out.

    Raises:
        NoLogsError: a work directory has no logs.
    """
    panels = 1 if ap_only else len(runs) + 1
    figure, grid = new_figure(1, panels, (4.8 * panels if panels > 1 else 6.8, 3.8))
    axes = list(grid[0])
    for (name, work_dirs), axis in zip(runs.items(), axes[:-1], strict=False):
        train = pd.DataFrame(read_scalars(work_dirs[0])[0])
        parts = [key for key in LOSSES if key in train]
        looks = looks_of(LOSSES[key] for key in parts)
        ends = []
        for key in parts:
            points = train[['step', key]].dropna()
            axis.plot(points.step, points[key], **looks[LOSSES[key]].line)
            ends.append((float(points.step.iloc[-1]), float(points[key].iloc[-1])))
        axis.set(xlabel='iteration', ylabel='loss', title=name)
        axis.set_ylim(bottom=0)
        label_lines(axis, list(looks), list(looks.values()), ends)
    ap_axis, looks = axes[-1], looks_of(runs)
    last: dict[str, tuple[float, float]] = {}
    for name, work_dirs in runs.items():
        records = [(step, with_ap(metrics)['AP']) for folder in work_dirs for step, metrics in read_metrics(folder)]
        if records:
            ap = pd.DataFrame(records, columns=['epoch', 'AP']).groupby('epoch').AP.agg(['mean', 'min', 'max'])
            ap_axis.plot(ap.index, ap['mean'], marker='o', markersize=4, **looks[name].line)
            ap_axis.fill_between(ap.index, ap['min'], ap['max'], color=looks[name].color, alpha=0.15, linewidth=0)
            last[name] = (float(ap.index[-1]), float(ap['mean'].iloc[-1]))
    ap_axis.set(xlabel='epoch', ylabel='AP on the validation images', title='validation AP')
    ap_axis.xaxis.get_major_locator().set_params(integer=True)
    if len(runs) > 1:
        label_lines(ap_axis, list(last), [looks[name] for name in last], list(last.values()))
    save(figure, out)
