"""Tables and a figure of what tools/benchmarks/benchmark_losses.py measured, and the tables of docs/speed.md.

python tools/benchmarks/report_benchmark.py BENCHMARK.csv [MORE.csv ...] [--figure OUT.png] [--curve SCALING.csv]
                                           [--page docs/speed.md]

MORE.csv are runs with other losses (``--losses``). Their times are relative to the focal loss of their own run. The
figure shows the times of the first file only.
``--page`` rewrites the part between the markers ``<!-- benchmark -->`` and ``<!-- end of benchmark -->``.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bucketed_losses.figure_style import BACKGROUND, GUIDE, Look, figure_style, label_lines, look_of, new_figure, save

COLUMNS = (
    'data', 'logits', 'positives', 'loss', 'milliseconds', 'to_focal', 'to_loop', 'peak_bytes', 'operations',
    'repeats', 'note', 'estimated_milliseconds', 'needed_bytes', 'device', 'threads', 'torch', 'mmdet',
)  # fmt: skip
LOOPS = ('AP by loop', 'RS by loop')
OURS = ('AP', 'BAP', 'RS', 'BRS')
OTHERS = ('aLRP', 'DR')  # ours, too, with no loop of theirs to compare with
SCALING = ('more negatives', 'more positives')
# What we hold ourselves to: time over that of focal loss, at most, of AP and BAP, and of RS and BRS.
GOALS = {
    ('synthetic', 1_000_000, 1000): (2, 3),
    ('synthetic', 1_000_000, 10_000): (3, 5),
    ('synthetic', 1_000_000, 50_000): (4, 10),
    ('synthetic', 100_000, 5000): (4, 15),
    ('trained-like', 1_000_000, 1000): (1, 1.5),
}
MARKERS = '<!-- benchmark -->', '<!-- end of benchmark -->'
Row = dict[str, str]


def seconds(value: float) -> str:
    """With a unit that fits."""
    if value >= 3 * 3600:
        return f'{value / 3600:.0f} h'
    if value >= 1000:
        return f'{value / 60:.0f} min'
    factor, unit = next((pair for pair in ((1, 's'), (1e3, 'ms')) if value * pair[0] >= 1), (1e6, 'µs'))
    return f'{value * factor:.3g} {unit}'


def bytes_of(number: float) -> str:
    """With a unit that fits, powers of ten."""
    factor, unit = next((pair for pair in ((1e9, 'GB'), (1e6, 'MB')) if number >= pair[0]), (1e3, 'kB'))
    return f'{number / factor:.2g} {unit}' if number < 100 * factor else f'{number / factor:.0f} {unit}'


def percent(share: float) -> str:
    return f'{100 * share:.2g} %'


def short(number: float) -> str:
    """1000000 as 1M."""
    for factor, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'K')):
        if number >= factor:
            return f'{number / factor:.3g}{unit}'
    return f'{number:.3g}'


def read(*paths: str | Path) -> list[Row]:
    """The rows of all files, case by case, the losses of further files after the first's of ours.

    Raises:
        SystemExit: they are from different machines.
    """
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    machines = set()
    for path in paths:
        with Path(path).open(newline='') as file:
            for row in csv.DictReader(file):
                cases.setdefault((row['data'], row['logits'], row['positives']), {}).setdefault(row['loss'], row)
                machines.add(tuple(row[key] for key in ('device', 'threads', 'torch', 'mmdet')))
    if len(machines) > 1:
        raise SystemExit(f'report_benchmark: times of different machines are not compared: {sorted(machines)}')

    def place(row: Row) -> int:
        return [*OURS, *OTHERS].index(row['loss']) if row['loss'] in (*OURS, *OTHERS) else len(OURS + OTHERS)

    return [row for rows in cases.values() for row in sorted(rows.values(), key=place)]


def table(rows: Iterable[Row]) -> str:
    """One case, a line per loss, as Markdown."""
    lines = [
        '| loss | time | / focal | / its loop | peak memory | / logits | operations |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        if row['note']:
            lines.append(f'| {row["loss"]} | {row["note"]} | | | | | |')
            continue
        peak = float(row['peak_bytes'])
        cells = [
            row['loss'],
            seconds(float(row['milliseconds']) / 1000),
            f'{float(row["to_focal"]):.2f}' if row.get('to_focal') else '',
            f'{float(row["to_loop"]):.2g}' if row.get('to_loop') and row['loss'] not in LOOPS else '',
            f'{peak / 1e6:.3g} MB',
            f'{peak / (4 * float(row["logits"])):.1f}',
            short(float(row['operations'])),
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def collapsed(summary: str, content: str) -> str:
    """A part of a page that a click opens, on the site and on a code host."""
    return f'<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>'


def overview(rows: list[Row], losses: Collection[str] = ()) -> str:
    """Time over that of focal loss, a line per case; of these losses only, or of all."""
    names = list(dict.fromkeys(row['loss'] for row in rows if row['loss'] != 'focal'))
    names = [name for name in names if not losses or name in losses]
    lines = ['| data | logits | positives | focal | ' + ' | '.join(names) + ' |', '|---' * (4 + len(names)) + '|']
    for case, group in groupby(rows, key=lambda row: (row['data'], row['logits'], row['positives'])):
        by_loss = {row['loss']: row for row in group}
        ratios = [_ratio(by_loss.get(name)) for name in names]
        focal = seconds(float(by_loss['focal']['milliseconds']) / 1000)
        share = percent(float(case[2]) / float(case[1]))
        lines.append('| ' + ' | '.join([case[0], short(float(case[1])), share, focal, *ratios]) + ' |')
    return '\n'.join(lines)


def _ratio(row: Row | None) -> str:
    if row is None:
        return ''
    if row['note']:
        return 'too large' if 'GB' in row['note'] else 'too slow'
    return f'{float(row["to_focal"]):.3g}'


def goals(rows: list[Row]) -> str:
    """The measured ratios and their limits; a ratio above its limit is bold."""
    lines = ['| data | logits | positives | goal AP, BAP | AP | BAP | goal RS, BRS | RS | BRS |', '|---' * 9 + '|']
    for (data, logits, positives), limits in GOALS.items():
        ratio = {
            r['loss']: float(r['to_focal'])
            for r in rows
            if (r['data'], r['logits'], r['positives']) == (data, str(logits), str(positives)) and r['to_focal']
        }
        if not ratio:
            continue
        cells = [data, short(logits), percent(positives / logits)]
        for limit, names in zip(limits, (OURS[:2], OURS[2:]), strict=True):
            shown = [f'{ratio[name]:.2f}' if ratio[name] <= limit else f'**{ratio[name]:.2f}**' for name in names]
            cells += [f'{limit:g}', *shown]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def slope(rows: list[Row], loss: str, over: str) -> float:
    """Least-squares slope of log time over log ``over``."""
    points = [(math.log(float(r[over])), math.log(float(r['milliseconds']))) for r in rows if r['loss'] == loss]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def scaling(rows: list[Row]) -> str:
    """How time grows with the negatives and with the positives, from the cases of ``--scaling``."""
    cases = {
        'negatives, 100K to 10M logits at 1000 positives': ('logits', [r for r in rows if r['data'] == SCALING[0]]),
        'positives, 1K to 100K at 1M negatives': ('positives', [r for r in rows if r['data'] == SCALING[1]]),
    }
    names = [*OURS, *(name for name in OTHERS if any(r['loss'] == name for r in rows)), 'focal']
    lines = ['| exponent of growth with | ' + ' | '.join(names) + ' |', '|---' * (1 + len(names)) + '|']
    for name, (over, chosen) in cases.items():
        slopes = [f'{slope(chosen, loss, over):.2f}' for loss in names]
        lines.append('| ' + ' | '.join([name, *slopes]) + ' |')
    return '\n'.join(lines)


def curve(rows: list[Row]) -> str:
    """Time and memory for each logit, from the cases of ``--curve``."""
    lines = ['| logits | positives | loss | time | ns per logit | bytes per logit |', '|---' * 6 + '|']
    for row in rows:
        number = int(row['logits'])
        milliseconds, guess = value_of(row, 'milliseconds'), estimate_of(row, 'milliseconds')
        memory, needed = value_of(row, 'peak_bytes'), estimate_of(row, 'peak_bytes')
        spent = milliseconds or guess
        cells = [short(number), short(int(row['positives'])), row['loss'], '', '', '']
        if spent is not None:
            mark = ' (estimated)' if milliseconds is None else ''
            cells[3:5] = f'{seconds(spent / 1000)}{mark}', f'{1e6 * spent / number:.3g}'
        if memory is not None or needed is not None:
            cells[5] = f'{memory / number:.1f}' if memory is not None else f'{(needed or 0) / number:.0f} (needed)'
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def page(rows: list[Row], curve_rows: Sequence[Row] = ()) -> str:
    """What stands between the markers."""
    machine = rows[0]
    grid = [r for r in rows if r['data'] not in SCALING]
    parts = [
        f'Machine: {machine["device"]}, {machine["threads"]} threads, torch {machine["torch"]}, '
        f'MMDetection {machine["mmdet"]}. Time of forward and backward, divided by that of focal loss:',
    ]
    largest = max(int(r['logits']) for r in grid if r['data'] == 'synthetic')
    parts += [
        overview([r for r in grid if r['logits'] == str(largest) or r['data'] == 'captured'], (*OURS, *OTHERS)),
        collapsed('Every size and every alternative', overview(grid)),
    ]
    for data, positives in (('synthetic', largest // 1000), ('synthetic', largest // 20), ('captured', None)):
        size = (str(largest), str(positives))
        chosen = [r for r in grid if r['data'] == data and (positives is None or (r['logits'], r['positives']) == size)]
        if chosen:
            share = percent(int(chosen[0]['positives']) / int(chosen[0]['logits']))
            logits, number = short(float(chosen[0]['logits'])), chosen[0]['positives']
            title = f'In full for {data} data, {logits} logits, {number} positives ({share})'
            parts.append(collapsed(title, table(chosen)))
    reached = goals(grid)
    if reached.count('\n') > 1:
        parts += ['What we hold ourselves to, in times of focal loss; what misses it is bold:', reached]
    if len(grid) < len(rows):
        parts += ['Least-squares slope of log time over log number (1: linear):', scaling(rows)]
    if curve_rows:
        first = curve_rows[0]
        most, threads = short(max(int(r['logits']) for r in curve_rows)), int(first['threads'])
        parts += [
            f'Up to {most} logits, in one run on {first["device"]}, {threads} thread{"" if threads == 1 else "s"}, '
            f'torch {first["torch"]}. Memory is what a call allocates beyond its inputs, the gradient included; logits '
            'and targets take 8 bytes a logit:',
            curve(list(curve_rows)),
        ]
    return '\n\n'.join(parts)


def value_of(row: Row, quantity: str) -> float | None:
    """The measured ``quantity`` of a row; None if it was not measured."""
    return float(row[quantity]) if row.get(quantity) else None


def estimate_of(row: Row, quantity: str) -> float | None:
    """What a loss that was left out would need: the time of a loop, or the memory of matrices; otherwise None."""
    text = row.get({'milliseconds': 'estimated_milliseconds', 'peak_bytes': 'needed_bytes'}.get(quantity, ''))
    return float(text) if text else None


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


FIGURE_SHARES = (0.001, 0.01, 0.05)
FIGURE_LOSSES = ('RS by loop', 'BRS by matrices', 'RS', 'BRS', 'AP', 'BAP', 'focal', 'cross-entropy')
QUANTITIES = {'milliseconds': 'time of forward and backward (ms)', 'peak_bytes': 'peak memory (bytes)'}


def at_share(rows: Iterable[Row], share: float, data: str = 'synthetic') -> list[Row]:
    """The rows of the data with this share of positives."""
    return [r for r in rows if r['data'] == data and math.isclose(int(r['positives']), share * int(r['logits']))]


@figure_style()
def draw(source: str | Path, out: str | Path) -> None:
    """Time and memory over the number of logits, log-log, one column per share of positives."""
    rows = read(source)
    shares = [share for share in FIGURE_SHARES if at_share(rows, share)]
    if not shares:
        shares = sorted({int(r['positives']) / int(r['logits']) for r in rows if r['data'] == 'synthetic'})[:3]
    figure, axes = new_figure(2, len(shares), (4.0 * len(shares) + 1.4, 7.6), sharex=True, sharey='row')
    for row, (quantity, label) in zip(axes, QUANTITIES.items(), strict=True):
        names, ends = [], []
        for axis, share in zip(row, shares, strict=True):
            chosen = at_share(rows, share)
            names = [name for name in FIGURE_LOSSES if any(r['loss'] == name and r.get(quantity) for r in chosen)]
            ends = draw_quantity(axis, chosen, quantity, names)
            if quantity == 'milliseconds':
                axis.set_title(f'{percent(share)} positives')
            else:
                axis.set_xlabel('number of logits')
        row[0].set_ylabel(label)
        # Only now are the limits of the shared axis final.
        label_lines(row[-1], names, [look_of(name) or Look(GUIDE) for name in names], ends)
    save(figure, out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('csv', type=Path, nargs='+', metavar='BENCHMARK.csv')
    parser.add_argument('--figure', type=Path, help='PNG to write')
    parser.add_argument(
        '--curve', type=Path, metavar='SCALING.csv', help='also report this file of benchmark_losses.py --curve'
    )
    parser.add_argument('--page', type=Path, help='Markdown page to rewrite between its markers')
    args = parser.parse_args(argv)
    text = page(read(*args.csv), read(args.curve) if args.curve else [])
    if args.figure:
        draw(args.csv[0], args.figure)  # times of one run
    if args.page is None:
        print(text)
        return
    before, rest = args.page.read_text().split(MARKERS[0])
    args.page.write_text(f'{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{rest.split(MARKERS[1])[1]}')


if __name__ == '__main__':
    main()
