"""The list of rows, and results compared with the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import stdev

from bucketed_losses.paper import figures

from .job import Job
from .outcome import Outcome
from .rows import Row

REPEATED = 'atss/atss_r50_fpn_brs_4xb4-1x_coco'
"""The row that the authors have published the most logs of: three."""


def tolerance(dataset: str) -> float | None:
    """How far an AP in per cent may be from the paper's: two standard deviations of the published runs of one row.

    None for data sets other than COCO, of which no row was repeated often enough.
    """
    if dataset != 'COCO':
        return None
    runs = [float(figure.value) for figure in figures(config=REPEATED, metric='box AP', source='log')]
    return math.floor(20 * stdev(runs) + 0.5) / 10


def list_rows(rows: Iterable[Row]) -> str:
    """All rows as a table in Markdown."""
    lines = [
        '| ROW | in the paper | GPUs x images | learning rate | epochs | AP | s/iter | data |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        ap = '-' if row.ap is None else f'{row.ap.value} ({row.ap.metric.split()[0]})'
        seconds = '-' if row.seconds is None else row.seconds.value
        setting = f'{row.gpus} x {row.images} | {row.learning_rate:g} | {row.epochs}'
        data = f'{row.figure.dataset} in `{row.data_root}`'
        lines.append(f'| `{row.name}` | {", ".join(row.tables)} | {setting} | {ap} | {seconds} | {data} |')
    return '\n'.join(lines)


def describe(job: Job) -> str:
    """What a job trains, and with which settings."""
    row, figure = job.row, job.row.figure
    ap = 'no AP' if row.ap is None else f'{row.ap.metric} {row.ap.value}'
    seconds = 'no time' if row.seconds is None else f'{row.seconds.value} s per iteration'
    images = job.gpus * row.images
    lines = [
        f'{row.name}: {figure.detector}, {figure.backbone}, {figure.loss}, {figure.dataset}',
        f'  in the paper ({", ".join(row.tables)}): {ap}, {seconds}',
        f'  {job.gpus} GPU{"s" if job.gpus > 1 else ""} x {row.images} images, {row.epochs} epochs, learning rate '
        f'{job.learning_rate:g}',
    ]
    if job.scale != 1:
        lines.append(
            f'  the learning rate is scaled from {row.learning_rate:g}, which is for {row.base_batch_size} images, '
            f'to {images} images by the linear rule. Expect another AP than the paper'
        )
    lines.append(f'  data: {row.figure.dataset} in {row.data_root}, or --data-root FOLDER')
    if row.weights:
        lines.append(f'  starts from the weights {row.weights}')
    return '\n'.join(lines)


def compare(row: Row, outcome: Outcome) -> str:
    """The result of one run compared with the paper's."""
    state = '' if outcome.epochs >= row.epochs else ', not finished'
    lines = [
        f'{row.name} after {outcome.epochs} of {row.epochs} epochs{state}, on {outcome.device}',
        f'  {"":8} {"here":>6} {"paper":>6}',
    ]
    for kind, value in outcome.ap.items():
        if row.ap is None or row.ap.metric != kind:
            lines.append(f'  {kind:8} {value:6.1f} {"-":>6}')
            continue
        lines.append(f'  {kind:8} {value:6.1f} {row.ap.value:>6}  {_verdict(value - float(row.ap.value), row)}')
    paper = '-' if row.seconds is None else row.seconds.value
    lines.append(f'  {"s/iter":8} {_seconds(outcome):>6} {paper:>6}{_times(outcome, row)}')
    return '\n'.join(lines)


def _verdict(difference: float, row: Row) -> str:
    allowed = tolerance(row.figure.dataset)
    if allowed is None:
        return f'{difference:+.1f}; no tolerance is known: no row on {row.figure.dataset} was repeated often enough'
    within = 'within' if abs(difference) <= allowed + 1e-9 else 'outside of'
    return f'{difference:+.1f}, {within} the ±{allowed:g} to expect'


def _seconds(outcome: Outcome) -> str:
    return '-' if outcome.seconds is None else f'{outcome.seconds:.2f}'


def _times(outcome: Outcome, row: Row) -> str:
    if row.seconds is None or outcome.seconds is None:
        return ''
    return f"  {outcome.seconds / float(row.seconds.value):.2f} times the paper's, which is for A100 GPUs"


def results(found: Mapping[Row, Outcome]) -> str:
    """Finished and unfinished runs as a table in the layout of the paper's Tables 1 to 5, in Markdown."""
    lines = [
        '| table | detector | BB | loss | data | epochs | T_iter (s) | paper | AP | paper | difference | device |',
        '|---|---|---|---|---|---|---|---|---|---|---|---|',
    ]
    for row, outcome in found.items():
        figure = row.figure
        epochs = f'{outcome.epochs}' if outcome.epochs >= row.epochs else f'{outcome.epochs} of {row.epochs}'
        seconds = '-' if row.seconds is None else row.seconds.value
        here = '-' if row.ap is None else f'{outcome.ap.get(row.ap.metric, 0.0):.1f}'
        paper = '-' if row.ap is None else f'{row.ap.value} ({row.ap.metric.split()[0]})'
        away = '-' if row.ap is None else f'{outcome.ap.get(row.ap.metric, 0.0) - float(row.ap.value):+.1f}'
        names = f'{", ".join(row.tables)} | {figure.detector} | {figure.backbone} | {figure.loss} | {figure.dataset}'
        times = f'{_seconds(outcome)} | {seconds}'
        lines.append(f'| {names} | {epochs} | {times} | {here} | {paper} | {away} | {outcome.device} |')
    return '\n'.join(lines)
