"""A table of any finished runs: AP, AP50 and AP75 of the last epoch, for boxes and masks, and AP per class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bucketed_losses.errors import UserError

from .logs import read_metrics, with_ap

AP_COLUMNS = ['AP', 'AP50', 'AP75']
MASK_COLUMNS = [f'mask {column}' for column in AP_COLUMNS]


def summarize(runs: Mapping[str, Sequence[str | Path]]) -> str:
    """A table in Markdown with a row for each run.

    AP is given as the mean ± the sample standard deviation over the seeds, everything else as the mean. MMDetection
    logs the AP per class of runs with masks for the masks only.

    Args:
        runs: Work directories of the seeds of each run, by the run's name.

    Raises:
        NoLogsError: a work directory has no logs.
        UserError: a run has no validation in its logs.
    """
    table = pd.DataFrame([_last_metrics(folder) for folders in runs.values() for folder in folders])
    seeds = table.groupby([name for name, folders in runs.items() for _ in folders], sort=False)
    means, deviations = seeds.mean(), seeds.std()
    columns = [column for column in [*AP_COLUMNS, *MASK_COLUMNS] if column in table]
    columns += [column for column in means if column not in columns]
    lines = ['| loss | seeds | ' + ' | '.join(columns) + ' |', '|---' * (2 + len(columns)) + '|']
    for name, size in seeds.size().items():
        cells = ['' if pd.isna(means.loc[name, column]) else f'{means.loc[name, column]:.3f}' for column in columns]
        for index, column in enumerate(columns):
            if column in ('AP', 'mask AP') and not pd.isna(deviations.loc[name, column]):
                cells[index] += f' ± {deviations.loc[name, column]:.3f}'
        lines.append(f'| {name} | {size} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _last_metrics(work_dir: str | Path) -> dict[str, float]:
    validations = read_metrics(work_dir)
    if not validations:
        raise UserError(f'{work_dir} has no validation in its logs')
    metrics = validations[-1][1]
    has_masks = 'mask AP' in metrics
    metrics = metrics if has_masks else with_ap(metrics)
    return {
        f'mask {name}' if has_masks and name not in AP_COLUMNS and name not in MASK_COLUMNS else name: value
        for name, value in metrics.items()
        if name in AP_COLUMNS or name in MASK_COLUMNS or not re.fullmatch(r'(mask )?AP\w*', name)
    }
