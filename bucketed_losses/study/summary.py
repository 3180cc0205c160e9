"""Tabulate finished runs, seeds averaged, as Markdown: AP, AP50 and AP75 of the last epoch, and AP per class.

Runs with masks get the same columns for masks; MMDetection logs their AP per class for masks only.

python tools/summarize_runs.py BRS=WORK_DIR[,WORK_DIR...] focal=WORK_DIR[,WORK_DIR...]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from _logs import RUN_METAVAR, parse_run, read_scalars

METRICS = {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'}
MASK_METRICS = {f'mask {label}': key.replace('bbox', 'segm') for label, key in METRICS.items()}
PER_CLASS = '_precision'


def summarize(runs: Mapping[str, Sequence[str | Path]]) -> str:
    """A Markdown table with a row per name; the spread over seeds is the sample standard deviation of AP."""
    columns: list[str] = []
    rows = {}
    for name, work_dirs in runs.items():
        records = [read_scalars(work_dir)[1][-1] for work_dir in work_dirs]
        metrics = METRICS | (MASK_METRICS if MASK_METRICS['mask AP'] in records[0] else {})
        values = {label: [record[key] for record in records] for label, key in metrics.items()}
        for key in records[0]:
            if key.endswith(PER_CLASS):
                label = key.removeprefix('coco/').removesuffix(PER_CLASS)
                label = f'mask {label}' if 'mask AP' in values else label
                values[label] = [record[key] for record in records]
        columns += [label for label in values if label not in columns]
        rows[name] = values
    lines = ['| loss | seeds | ' + ' | '.join(columns) + ' |', '|---' * (2 + len(columns)) + '|']
    for name, values in rows.items():
        cells = [f'{mean(values[label]):.3f}' if label in values else '' for label in columns]
        for index, label in enumerate(columns):
            if label in ('AP', 'mask AP') and len(values.get(label, ())) > 1:
                cells[index] += f' ± {stdev(values[label]):.3f}'
        lines.append(f'| {name} | {len(values["AP"])} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Tabulate finished runs')
    parser.add_argument('runs', nargs='+', metavar=RUN_METAVAR, type=parse_run)
    args = parser.parse_args(argv)
    try:
        print(summarize(dict(args.runs)))
    except FileNotFoundError as error:
        raise SystemExit(f'summarize_runs: {error}') from error


if __name__ == '__main__':
    main()
