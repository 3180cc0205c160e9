"""Tables of what tools/benchmarks/benchmark_losses.py measured.

python tools/benchmarks/report_benchmark.py BENCHMARK.csv [MORE.csv ...] [--curve SCALING.csv]

Prints every case and every loss as Markdown. MORE.csv are runs with other losses (``--losses``). Their times are
relative to the focal loss of their own run. The tables of docs/speed.md are those of speed_page.py, the figures those
of benchmark_figures.py.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

COLUMNS = (
    'data', 'logits', 'positives', 'loss', 'milliseconds', 'to_focal', 'to_loop', 'peak_bytes', 'operations',
    'repeats', 'note', 'estimated_milliseconds', 'needed_bytes', 'device', 'threads', 'torch',
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
                machines.add(tuple(row[key] for key in ('device', 'threads', 'torch')))
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


def overview(rows: list[Row]) -> str:
    """Time over that of focal loss, a line per case."""
    names = list(dict.fromkeys(row['loss'] for row in rows if row['loss'] != 'focal'))
    lines = ['| data | logits | positives | focal | ' + ' | '.join(names) + ' |', '|---' * (4 + len(names)) + '|']
    for case, group in groupby(rows, key=lambda row: (row['data'], row['logits'], row['positives'])):
        by_loss = {row['loss']: row for row in group}
        ratios = [ratio_of(by_loss.get(name)) for name in names]
        focal = seconds(float(by_loss['focal']['milliseconds']) / 1000)
        share = percent(float(case[2]) / float(case[1]))
        lines.append('| ' + ' | '.join([case[0], short(float(case[1])), share, focal, *ratios]) + ' |')
    return '\n'.join(lines)


def ratio_of(row: Row | None) -> str:
    """Time over that of focal loss, or in a word why there is none."""
    if row is None:
        return ''
    if row['note']:
        return 'too large' if 'GB' in row['note'] else 'too slow'
    return digits(float(row['to_focal']))


def digits(number: float) -> str:
    """Two significant digits, and all digits before the decimal point."""
    return f'{number:.2g}' if number < 10 else f'{number:.0f}'


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


def machine_of(rows: Sequence[Row]) -> str:
    """The machine and the version of torch."""
    first = rows[0]
    threads = 'one thread' if first['threads'] == '1' else f'{first["threads"]} threads'
    return f'{first["device"]}, {threads}, torch {first["torch"]}'


def full_report(rows: list[Row], curve_rows: Sequence[Row] = ()) -> str:
    """All cases and losses."""
    grid = [r for r in rows if r['data'] not in SCALING]
    parts = [f'Machine: {machine_of(rows)}. Time of forward and backward over that of focal loss:', overview(grid)]
    for (data, logits, positives), group in groupby(
        grid, key=lambda row: (row['data'], row['logits'], row['positives'])
    ):
        share = percent(int(positives) / int(logits))
        parts += [f'{data}, {short(float(logits))} logits, {positives} positives ({share}):', table(group)]
    reached = goals(grid)
    if reached.count('\n') > 1:
        parts += ['Goals, in times of focal loss; a ratio above its goal is bold:', reached]
    if len(grid) < len(rows):
        parts += ['Least-squares slope of log time over log number (1: linear):', scaling(rows)]
    if curve_rows:
        most = short(max(int(r['logits']) for r in curve_rows))
        parts += [
            f'Up to {most} logits, in one run on {machine_of(curve_rows)}. Memory is what a call allocates beyond its '
            'inputs, the gradient included; logits and targets take 8 bytes a logit:',
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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('csv', type=Path, nargs='+', metavar='BENCHMARK.csv')
    parser.add_argument(
        '--curve', type=Path, metavar='SCALING.csv', help='also report this file of benchmark_losses.py --curve'
    )
    args = parser.parse_args(argv)
    print(full_report(read(*args.csv), read(args.curve) if args.curve else []))


if __name__ == '__main__':
    main()
