"""Two figures of what tools/benchmarks/benchmark_losses.py measured: time and memory over the number of logits.

python tools/benchmarks/benchmark_figures.py BENCHMARK.csv --out DIR

Writes BENCHMARK_time.png and BENCHMARK_memory.png, from one run.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from report_benchmark import Row, estimate_of, percent, read, value_of

from bucketed_losses.figure_style import BACKGROUND, GUIDE, Look, figure_style, label_lines, look_of, new_figure, save

FIGURE_SHARE = 0.01
FIGURE_LOSSES = ('RS by loop', 'BRS by matrices', 'BRS', 'focal')
QUANTITIES = {'milliseconds': 'time of forward and backward (ms)', 'peak_bytes': 'peak memory (bytes)'}
FIGURES = {'milliseconds': 'time', 'peak_bytes': 'memory'}


def draw_quantity(axis: Any, rows: list[Row], quantity: str, names: Sequence[str]) -> list[tuple[float, float]]:
    """Draw a quantity over the number of logits, log-log, a line for each loss.

    Every loss must have been measured at least once. Estimates of what was left out continue a line with thin dots and
    hollow markers.

    Returns:
        The last point of each line, for direct labels.
    """
    ends: list[tuple[float, float]] = []
    for name in names:
        look = look_of(name) or Look(GUIDE)
        mine = sorted((row for row in rows if row['loss'] == name), key=lambda row: int(row['logits']))
        points = [(int(row['logits']), value) for row in mine if (value := value_of(row, quantity)) is not None]
        guesses = [(int(row['logits']), value) for row in mine if (value := estimate_of(row, quantity)) is not None]
        axis.plot(*zip(*points, strict=True), marker='o', markersize=4, **look.line)
        if guesses:
            axis.plot(
                *zip(points[-1], *guesses, strict=True), color=look.color, linestyle=':', linewidth=1.0, marker='o',
                markersize=5, markerfacecolor=BACKGROUND, markevery=slice(1, None), zorder=look.zorder,
            )  # fmt: skip
        ends.append((points + guesses)[-1])
    axis.set(xscale='log', yscale='log')
    return ends


def at_share(rows: Iterable[Row], share: float, data: str = 'synthetic') -> list[Row]:
    """The rows of the data with this share of positives."""
    return [r for r in rows if r['data'] == data and math.isclose(int(r['positives']), share * int(r['logits']))]


@figure_style()
def draw(rows: Sequence[Row], quantity: str, out: str | Path, losses: Sequence[str] = FIGURE_LOSSES) -> None:
    """One of ``QUANTITIES`` over the number of logits, log-log, from the rows of one share of positives."""
    names = [name for name in losses if any(r['loss'] == name and r.get(quantity) for r in rows)]
    figure, ((axis,),) = new_figure(1, 1, (6.0, 3.6))
    ends = draw_quantity(axis, list(rows), quantity, names)
    share = int(rows[0]['positives']) / int(rows[0]['logits'])
    axis.set(xlabel=f'number of logits, {percent(share)} of them positives', ylabel=QUANTITIES[quantity])
    label_lines(axis, names, [look_of(name) or Look(GUIDE) for name in names], ends)
    save(figure, out)


def draw_both(source: str | Path, folder: Path, losses: Sequence[str] = FIGURE_LOSSES) -> list[Path]:
    """Time and memory, from one file of synthetic data at 1 % positives, or at its first share without any such case.

    Returns:
        The PNG files, named after ``source``.
    """
    rows = read(source)
    drawn = at_share(rows, FIGURE_SHARE)
    if not drawn:
        first = next(row for row in rows if row['data'] == 'synthetic')
        drawn = at_share(rows, int(first['positives']) / int(first['logits']))
    paths = {quantity: folder / f'{Path(source).stem}_{name}.png' for quantity, name in FIGURES.items()}
    for quantity, path in paths.items():
        draw(drawn, quantity, path, losses)
    return list(paths.values())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('csv', type=Path, metavar='BENCHMARK.csv')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to write to')
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    print('wrote', *draw_both(args.csv, args.out))


if __name__ == '__main__':
    main()
