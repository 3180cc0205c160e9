"""Draw training curves from MMEngine's logs: every loss over iterations, AP over epochs (mean and range of the seeds).

python tools/plot_curves.py OUT.png NAME=WORK_DIR[,WORK_DIR...] [NAME=...] [--ap-only]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from _logs import RUN_METAVAR, parse_run, read_scalars

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
    """Write a PNG with the losses of every run's first seed, by name and work directories, and the AP of all runs."""
    panels = 1 if ap_only else len(runs) + 1
    figure = plt.figure(figsize=(4.5 * panels if panels > 1 else 6.4, 3.6), layout='constrained')
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for (name, work_dirs), axis in zip(runs.items(), axes[:-1], strict=False):
        train, _ = read_scalars(work_dirs[0])
        for key, label in LOSSES.items():
            points = [(record['step'], record[key]) for record in train if key in record]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, linewidth=1.8)
        axis.set(xlabel='iteration', ylabel='loss', title=name)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    for name, work_dirs in runs.items():
        by_epoch: dict[int, list[float]] = {}
        for work_dir in work_dirs:
            for record in read_scalars(work_dir)[1]:
                by_epoch.setdefault(record['step'], []).append(record['coco/bbox_mAP'])
        if by_epoch:
            means = [sum(values) / len(values) for values in by_epoch.values()]
            (line,) = axes[-1].plot(list(by_epoch), means, marker='o', label=name, linewidth=1.8, markersize=4)
            lowest, highest = ([pick(values) for values in by_epoch.values()] for pick in (min, max))
            axes[-1].fill_between(list(by_epoch), lowest, highest, color=line.get_color(), alpha=0.15, linewidth=0)
    axes[-1].set(xlabel='epoch', ylabel='AP', title='validation AP')
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    if len(runs) > 1:
        axes[-1].legend(frameon=False)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Draw training curves')
    parser.add_argument('out', help='PNG to write')
    parser.add_argument('runs', nargs='+', metavar=RUN_METAVAR, type=parse_run)
    parser.add_argument('--ap-only', action='store_true', help='leave the losses out')
    args = parser.parse_args(argv)
    try:
        plot_curves(dict(args.runs), args.out, args.ap_only)
    except FileNotFoundError as error:
        raise SystemExit(f'plot_curves: {error}') from error
    print(f'Curves are in {args.out}')


if __name__ == '__main__':
    main()
