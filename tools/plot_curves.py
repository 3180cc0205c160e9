"""Draw training curves from MMEngine's logs: every loss over iterations, AP over epochs.

python tools/plot_curves.py OUT.png WORK_DIR [WORK_DIR ...]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

LOSSES = {
    'loss_rank': 'ranking',
    'loss_sort': 'sorting',
    'loss_cls': 'classification',
    'loss_bbox': 'box',
    'loss_centerness': 'centerness',
}


def read_scalars(work_dir: str | Path) -> tuple[list[dict], list[dict]]:
    """Training and validation records of a work directory, resumed runs joined in order."""
    files = sorted(Path(work_dir).glob('**/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'no vis_data/scalars.json in {work_dir}: not a work directory of a training run')
    train: dict[int, dict] = {}
    val: dict[int, dict] = {}
    for file in files:
        for line in file.read_text().splitlines():
            record = json.loads(line)
            # A resumed run repeats what came after its checkpoint: the later record counts.
            (train if 'loss' in record else val)[record['step']] = record
    return [train[step] for step in sorted(train)], [val[step] for step in sorted(val)]


def plot_curves(runs: Mapping[str, str | Path], out: str | Path) -> None:
    """Write a PNG with the losses of every run, by name and work directory, and the AP of all of them."""
    figure = plt.figure(figsize=(4.5 * (len(runs) + 1), 3.6), layout='constrained')
    axes = figure.subplots(1, len(runs) + 1, squeeze=False)[0]
    for (name, work_dir), axis in zip(runs.items(), axes, strict=False):
        train, val = read_scalars(work_dir)
        for key, label in LOSSES.items():
            points = [(record['step'], record[key]) for record in train if key in record]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, linewidth=1.8)
        axis.set(xlabel='iteration', ylabel='loss', title=name)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
        points = [(record['step'], record['coco/bbox_mAP']) for record in val if 'coco/bbox_mAP' in record]
        if points:
            axes[-1].plot(*zip(*points, strict=True), marker='o', label=name, linewidth=1.8)
    axes[-1].set(xlabel='epoch', ylabel='AP', title='validation')
    axes[-1].set_ylim(0, 1)
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
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR')
    args = parser.parse_args(argv)
    try:
        plot_curves({Path(work_dir).name: work_dir for work_dir in args.work_dirs}, args.out)
    except FileNotFoundError as error:
        raise SystemExit(f'plot_curves: {error}') from error
    print(f'Curves are in {args.out}')


if __name__ == '__main__':
    main()
