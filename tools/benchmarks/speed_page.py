"""Writes the tables of docs/speed.md from the CSV files in docs/figures; nothing is measured.

python tools/benchmarks/speed_page.py [--docs docs]

Each table stands between two comments of the page, and this tool replaces what stands there:

    summary     from benchmark.csv: ranges of time and memory at the largest size
    ratios      from benchmark.csv (and benchmark_alrp_dr.csv, if it exists): time over that of focal loss
    growth      from the same files: exponents of the growth of time
    curve       from scaling.csv: time and memory up to 100 million logits
    shares      from loss_share_bccd.csv and loss_share_coco_size.csv
    operations  from operations.csv
    targets     from targets.csv
    kernels     from kernels.csv
    gpu         from gpu/benchmark.csv and gpu/environment.txt, which tools/gpu/check.py writes
    gpu-steps   from gpu/families.csv, of the same tool

refresh_speed.py measures them all again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'gpu'))

from family_table import COLUMNS, family_table
from page_blocks import write_block
from report_benchmark import (
    OTHERS,
    OURS,
    SCALING,
    Row,
    bytes_of,
    digits,
    estimate_of,
    machine_of,
    percent,
    ratio_of,
    read,
    scaling,
    seconds,
    short,
    value_of,
)  # fmt: skip
from tables import markdown, read_csv

IN_RATIOS = (*OURS, *OTHERS, 'BRS by matrices', 'RS by loop')
DATA = {'captured': 'ATSS on BCCD', 'synthetic': 'start of training', 'trained-like': 'later in training'}
MORE = 'benchmark_alrp_dr.csv'
LATER = (
    'aLRP and DR Loss were measured in a later run, together with focal loss, and their ratios are those of that run.'
)
ON_A_GPU = ('AP', 'BAP', 'RS', 'BRS', 'BRS by matrices', 'RS by loop')
IN_CURVE = ('RS', 'BRS', 'cross-entropy', 'BRS by matrices', 'RS by loop')
SHARES = ('0.1 %', '1 %', '5 %')
"""Of the positives of synthetic data in the ratios."""


def benchmark(figures: Path) -> list[Row]:
    """The rows of the benchmark; aLRP and DR Loss may be from a later run of the same machine."""
    paths = [figures / name for name in ('benchmark.csv', MORE)]
    return read(*(path for path in paths if path.exists()))


def _largest(rows: Iterable[Row]) -> list[Row]:
    """The synthetic rows of the largest size."""
    grid = [row for row in rows if row['data'] in ('synthetic', 'trained-like')]
    size = max(int(row['logits']) for row in grid)
    return [row for row in grid if int(row['logits']) == size]


def summary(rows: list[Row]) -> str:
    """What a reader asks first."""
    largest = _largest(rows)
    cases: dict[tuple[str, str], dict[str, Row]] = {}
    for row in largest:
        if row['milliseconds']:
            cases.setdefault((row['data'], row['positives']), {})[row['loss']] = row

    def times(losses: Iterable[str], of: Callable[[str], str]) -> str:
        """The range of the time of ``of(loss)`` over the time of the loss."""
        ratios = [
            float(case[of(loss)]['milliseconds']) / float(case[loss]['milliseconds'])
            for case in cases.values()
            for loss in losses
            if loss in case and of(loss) in case
        ]
        return _range(ratios)

    def focal_times(*losses: str) -> str:
        return _range([float(case[loss]['to_focal']) for case in cases.values() for loss in losses if loss in case])

    def memory(*losses: str) -> str:
        return _range([float(row['peak_bytes']) / 4 / int(row['logits']) for row in largest if row['loss'] in losses])

    positives = sorted({int(row['positives']) / int(row['logits']) for row in largest})
    return (
        f'At {short(int(largest[0]["logits"]))} logits, {percent(positives[0])} to {percent(positives[-1])} of them '
        'positives, a forward and backward pass on this CPU takes\n\n'
        f'* {focal_times("AP", "BAP")} times as long as focal loss with AP and BAP Loss;\n'
        f'* {focal_times("RS", "BRS")} times as long with RS and BRS Loss: the more positives, the longer;\n'
        f'* {focal_times("aLRP")} times as long with aLRP Loss, {focal_times("DR")} times with DR Loss.\n\n'
        f'The loop over positives takes {times(("AP", "RS"), lambda loss: f"{loss} by loop")} times as long as our AP '
        f'and RS Loss, and the matrices take {times(("BAP", "BRS"), lambda loss: f"{loss} by matrices")} times as long '
        'as our BAP and BRS Loss, where they can run at all. Peak memory of AP, BAP, RS and BRS Loss is '
        f'{memory(*OURS)} times that of the logits, the gradient included; focal loss takes {memory("focal")} times.'
    )


def _range(values: list[float]) -> str:
    first, last = digits(min(values)), digits(max(values))
    return first if first == last else f'{first} to {last}'


def ratios(rows: list[Row], later: bool = False) -> str:
    """A line for each realistic case; ``later`` says that aLRP and DR Loss are from a later run."""
    largest = _largest(rows)
    chosen = [row for row in rows if row['data'] == 'captured'] + largest
    lines = []
    for (data, logits, positives), group in groupby(
        chosen, key=lambda row: (row['data'], row['logits'], row['positives'])
    ):
        share = percent(int(positives) / int(logits))
        if data != 'captured' and share not in SHARES:
            continue
        by_loss = {row['loss']: row for row in group}
        focal = seconds(float(by_loss['focal']['milliseconds']) / 1000)
        cells = [ratio_of(by_loss.get(loss)) for loss in IN_RATIOS]
        lines.append([DATA[data], short(int(logits)), share, focal, *cells])
    head = ('data', 'logits', 'positives', 'focal loss', *IN_RATIOS)
    text = f'Machine: {machine_of(rows)}.\n\n{markdown(head, lines)}'
    return f'{text}\n\n{LATER}' if later else text


def growth(rows: list[Row]) -> str:
    return scaling([row for row in rows if row['data'] in SCALING])


def curve(figures: Path) -> str:
    """A line for each number of logits: times, and bytes for each logit of BRS Loss and cross-entropy."""
    rows = read(figures / 'scaling.csv')
    lines = []
    for (logits, positives), group in groupby(rows, key=lambda row: (row['logits'], row['positives'])):
        by_loss = {row['loss']: row for row in group}
        memory = [
            '-' if peak is None else f'{peak / int(logits):.0f}'
            for peak in (value_of(by_loss[loss], 'peak_bytes') for loss in ('BRS', 'cross-entropy'))
        ]
        times = [_time_or_need(by_loss[loss]) for loss in IN_CURVE]
        lines.append([short(int(logits)), f'{int(positives):,}', *times, ' / '.join(memory)])
    head = ('logits', 'positives', *IN_CURVE, 'bytes per logit, BRS / cross-entropy')
    return f'Machine: {machine_of(rows)}.\n\n{markdown(head, lines)}'


def _time_or_need(row: Row) -> str:
    """The measured time of a row; in italics what a loss that was left out would need."""
    measured, guess = value_of(row, 'milliseconds'), estimate_of(row, 'milliseconds')
    if measured is not None:
        return seconds(measured / 1000)
    if guess is not None:
        return f'*{seconds(guess / 1000)}*'
    return f'*{bytes_of(estimate_of(row, "peak_bytes") or 0)}*'


def operations(figures: Path) -> str:
    """A line for each loss, a column for each number of positives."""
    rows = read_csv(figures / 'operations.csv')
    numbers = list(dict.fromkeys(row['positives'] for row in rows))
    lines = []
    for loss in dict.fromkeys(row['loss'] for row in rows):
        mine = {row['positives']: row for row in rows if row['loss'] == loss}
        lines.append([loss, *(mine[num]['operations'] for num in numbers), mine[numbers[0]]['ms (model)']])
    columns = [f'{int(num):,} positives' for num in numbers]
    return markdown(['loss', *columns, f'ms with {int(numbers[0]):,} (model)'], lines)


def targets(figures: Path) -> str:
    """Dense and sparse targets next to each other."""
    rows = read_csv(figures / 'targets.csv')
    lines = []
    for (way, loss), group in groupby(rows, key=lambda row: (row['way'], row['loss'])):
        kinds = {row['targets']: row for row in group}
        pair = [kinds['dense'], kinds['sparse']]
        passes = [f'{float(row["passes"]):.1f}' for row in pair]
        peaks = [bytes_of(float(row['peak_bytes'])) for row in pair]
        lines.append([way, loss, *passes, *peaks])
    size = f'{short(int(rows[0]["logits"]))} logits, {int(rows[0]["positives"]):,} positives, torch {rows[0]["torch"]}'
    head = ('algorithm', 'loss', 'passes, dense', 'passes, sparse', 'peak memory, dense', 'peak memory, sparse')
    return f'{size}:\n\n{markdown(head, lines)}'


def kernels(figures: Path) -> str:
    """Inductor's kernels next to the operations without a compiler."""
    counted = {(row['loss'], row['positives']): row['operations'] for row in read_csv(figures / 'operations.csv')}
    rows = read_csv(figures / 'kernels.csv')
    lines = [
        [row['loss'], f'{int(row["positives"]):,}', counted.get((row['loss'], row['positives']), ''),
         row['library_calls'], row['functions'], row['kernels']]
        for row in rows
    ]  # fmt: skip
    head = ('loss', 'positives', 'operations, not compiled', 'library calls', 'C++ functions', 'kernels in them')
    return f'torch {rows[0]["torch"]}:\n\n{markdown(head, lines)}'


def shares(figures: Path) -> str:
    parts = []
    for name, title in (
        ('loss_share_bccd', 'Whole steps on BCCD, 8 images of 320 x 240:'),
        ('loss_share_coco_size', 'Heads alone, 4 images of 800 x 1333 and 80 classes; ATSS ranks 21 million logits:'),
    ):
        rows = read_csv(figures / f'{name}.csv')
        parts += [title, markdown(list(rows[0]), [list(row.values()) for row in rows])]
    return '\n\n'.join(parts)


def gpu(figures: Path) -> str:
    """Times on a GPU divided by those of focal loss, and memory."""
    cases: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in read_csv(figures / 'gpu/benchmark.csv'):
        cases.setdefault((row['logits'], row['positives']), {})[row['loss']] = row
    cases = {key: case for key, case in cases.items() if case.get('focal', {}).get('milliseconds')}
    lines = []
    for (logits, positives), case in cases.items():
        times = [
            f'{float(case[loss]["to_focal"]):.3g}' if loss in case and case[loss]['to_focal'] else ''
            for loss in ON_A_GPU
        ]
        kernels, memory = (
            [case.get(loss, {}).get(column, '') for loss in ('focal', 'BRS', 'BRS by matrices')]
            for column in ('launches', 'peak_megabytes')
        )
        lines.append(
            [
                short(int(logits)),
                f'{int(positives):,}',
                f'{float(case["focal"]["milliseconds"]):.2g} ms',
                *times,
                ' / '.join(kernels[:2]),
                ' / '.join(f'{float(value):.0f}' if value else '-' for value in memory),
            ]
        )
    head = ['logits', 'positives', 'focal loss', *ON_A_GPU]
    head += ['kernels, focal / BRS', 'peak MB, focal / BRS / by matrices']
    return '\n\n'.join([f'Machine: {_environment(figures)}.', markdown(head, lines), _gpu_ranges(list(cases.values()))])


def _gpu_ranges(cases: list[dict[str, dict[str, str]]]) -> str:
    """The table in sentences: with up to 1,000 positives, and with more."""

    def ratios(few: bool, losses: Iterable[str]) -> str:
        chosen = [case for case in cases if (int(case['focal']['positives']) <= 1000) == few]
        found = [
            float(case[loss]['to_focal']) for case in chosen for loss in losses if case.get(loss, {}).get('to_focal')
        ]
        return f'{digits(min(found))} to {digits(max(found))} times'

    own = ('AP', 'BAP', 'RS', 'BRS')
    return (
        f'With up to 1,000 positives, our losses take {ratios(True, own)} as long as focal loss, the matrices '
        f'{ratios(True, ["BRS by matrices"])}, and the loop {ratios(True, ["RS by loop"])}. With 10,000 positives, our '
        f'losses take {ratios(False, own)} as long, and the matrices {ratios(False, ["BRS by matrices"])}.'
    )


def gpu_steps(figures: Path) -> str:
    """Training steps of detectors on a GPU with their own losses and with BRS Loss."""
    rows = read_csv(figures / 'gpu/families.csv')
    return f'Machine: {_environment(figures)}.\n\n{markdown(COLUMNS, family_table(rows))}'


def _environment(figures: Path) -> str:
    """GPU and torch, as tools/gpu/check.py writes them down."""
    lines = (figures / 'gpu/environment.txt').read_text().splitlines()
    device, versions = (
        next(line.removeprefix(name).strip() for line in lines if line.startswith(name)) for name in ('device', 'torch')
    )
    return f'one {device}, torch {versions.split(",")[0]}'


def blocks(figures: Path) -> dict[str, str]:
    """The tables of the page, by the names of their comments."""
    rows = benchmark(figures)
    return {
        'summary': summary(rows),
        'ratios': ratios(rows, (figures / MORE).exists()),
        'growth': growth(rows),
        'curve': curve(figures),
        'shares': shares(figures),
        'operations': operations(figures),
        'targets': targets(figures),
        'kernels': kernels(figures),
        'gpu': gpu(figures),
        'gpu-steps': gpu_steps(figures),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--docs', type=Path, default=Path('docs'), help='folder of the docs (default: docs)')
    args = parser.parse_args(argv)
    for name, content in blocks(args.docs / 'figures').items():
        write_block(args.docs / 'speed.md', name, content)
    print(f'wrote {args.docs / "speed.md"}')


if __name__ == '__main__':
    main()
