"""Training curves of any runs, from MMEngine's logs: losses over iterations, and AP over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd

from .logs import read_metrics, read_scalars

matplotlib.use('Agg')
import matplotlib.pyplot as plt

LOSSES = {
    'loss_rank': 'ranking',
    'loss_sort': 'sorting',
    'loss_cls': 'classification',
    'loss_bbox': 'box',
    'loss_centerness': 'centerness',
}


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
    figure = plt.figure(figsize=(4.5 * panels if panels > 1 else 6.4, 3.6), layout='constrained')
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for (name, work_dirs), axis in zip(runs.items(), axes[:-1], strict=False):
        train = pd.DataFrame(read_scalars(work_dirs[0])[0])
        for key, label in LOSSES.items():
            if key in train:
                points = train[['step', key]].dropna()
                axis.plot(points.step, points[key], label=label, linewidth=1.8)
        axis.set(xlabel='iteration', ylabel='loss', title=name)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    for name, work_dirs in runs.items():
        # MMDetection logs no AP where nothing at all was detected.
        records = [(step, metrics.get('AP', 0.0)) for folder in work_dirs for step, metrics in read_metrics(folder)]
        if records:
            ap = pd.DataFrame(records, columns=['epoch', 'AP']).groupby('epoch').AP.agg(['mean', 'min', 'max'])
            (line,) = axes[-1].plot(ap.index, ap['mean'], marker='o', label=name, linewidth=1.8, markersize=4)
            axes[-1].fill_between(ap.index, ap['min'], ap['max'], color=line.get_color(), alpha=0.15, linewidth=0)
    axes[-1].set(xlabel='epoch', ylabel='AP', title='validation AP')
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    if len(runs) > 1:
        axes[-1].legend(frameon=False)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(out, dpi=130)
    plt.close(figure)
