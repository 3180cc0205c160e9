"""Time of bucketed_losses.compat and of the loops over positives that it replaces, in one run on the same tensors.

python tools/benchmarks/benchmark_compat.py [--out FILE.csv] [--page docs/compat.md] [--report]

Measures forward and backward of RankSort, APLoss and aLRPLoss, and of the published algorithms
(published_algorithms/), which compute the gradient together with the value. They take turns; medians are reported. The
data are the paper's (S.3.2) and what a detector sees after its first epochs (synthetic_data.py). A loop that would take
longer than --max-seconds is left out, and the CSV says so.

The default sizes are those of a YOLO-style head with three anchors in each cell of strides 8, 16 and 32, on images of
640 x 640: 25,200 predictions. Objectness alone has one logit for each, 80 classes have 2,016,000 logits.

--page rewrites the table between the markers <!-- benchmark --> and <!-- end of benchmark --> of a page from the CSV.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import processor
from page_blocks import write_block
from published_algorithms.interpolated_ap_and_alrp import alrp_by_loop, interpolated_ap_by_loop
from published_algorithms.loop_over_positives import loop_over_positives
from report_benchmark import Row, seconds
from synthetic_data import synthetic_logits
from tables import read_csv
from torch import Tensor

from bucketed_losses.compat import APLoss, RankSort, aLRPLoss

SIZES = (25_200, 201_600, 2_016_000)
POSITIVES = (100, 1000)
DATA = ('synthetic', 'trained-like')
COLUMNS = (
    'loss', 'data', 'logits', 'positives', 'loop_ms', 'compat_ms', 'loop_calls', 'compat_calls', 'note', 'device',
    'threads', 'torch',
)  # fmt: skip
# Loops take minutes: fewer calls of them are known well enough.
MOST_LOOP_SECONDS = 5.0
Pair = tuple[Callable[[Tensor, Tensor], Any], Callable[[Tensor, Tensor], Any]]


def pairs() -> dict[str, Pair]:
    """For each loss, the loop and the replacement; both take flat logits and IoUs as targets."""

    def labels(targets: Tensor) -> Tensor:
        return torch.where(targets > 0, 1, targets)

    def rank_sort(logits: Tensor, targets: Tensor) -> None:
        ranking, sorting = RankSort.apply(logits, targets)
        (ranking + sorting).backward()

    def alrp(logits: Tensor, targets: Tensor) -> None:
        aLRPLoss.apply(logits, labels(targets), 1 - targets[targets > 0])[0].backward()

    return {
        'RankSort': (lambda x, t: loop_over_positives(x.detach(), t, 0.5, sort=True), rank_sort),
        'APLoss': (
            lambda x, t: interpolated_ap_by_loop(x.detach(), labels(t), 1.0),
            lambda x, t: APLoss.apply(x, labels(t)).backward(),
        ),
        'aLRPLoss': (lambda x, t: alrp_by_loop(x.detach(), labels(t), 1 - t[t > 0], 1.0), alrp),
    }


def timed(call: Callable[[Tensor, Tensor], Any], logits: Tensor, targets: Tensor) -> float:
    """Seconds of one call."""
    logits = logits.detach().requires_grad_()
    if logits.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    call(logits, targets)
    if logits.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def estimate(loop: Callable[[Tensor, Tensor], Any], logits: Tensor, targets: Tensor, few: int = 10) -> float:
    """Seconds that a loop over all positives would take, from the time of a loop over some of them."""
    positives = (targets > 0).nonzero().squeeze(1)
    # The lowest ones, so that as many negatives as in the whole loop lie above the lowest positive.
    rest = positives[logits[positives].argsort()[few:]]
    return timed(loop, logits, targets.index_fill(0, rest, -1)) / min(few, len(positives)) * len(positives)


def measure(name: str, logits: Tensor, targets: Tensor, repeats: int, max_seconds: float) -> dict[str, Any]:
    """The row of one loss and one case, without what is known about the machine."""
    loop, replacement = pairs()[name]
    timed(loop, logits[:2000], targets[:2000].index_fill(0, torch.tensor([0], device=targets.device), 1.0))
    timed(replacement, logits, targets)
    note = ''
    if (expected := estimate(loop, logits, targets)) > max_seconds:
        note = f'the loop would take {seconds(expected)}'
    loop_times: list[float] = []
    times: list[float] = []
    for _ in range(repeats):
        if not note and sum(loop_times) < MOST_LOOP_SECONDS:
            loop_times.append(timed(loop, logits, targets))
            timed(replacement, logits, targets)  # after the loop, the tensors are not in the cache
        times.append(timed(replacement, logits, targets))
    row = dict(loss=name, compat_ms=round(1000 * statistics.median(times), 4), compat_calls=len(times), note=note)
    if loop_times:
        row |= dict(loop_ms=round(1000 * statistics.median(loop_times), 4), loop_calls=len(loop_times))
    return row


def table(rows: list[Row]) -> str:
    """The rows of the CSV as Markdown, one line for each loss and case, after a line about the machine."""
    machine = {(row['device'], row['threads'], row['torch']) for row in rows}
    if len(machine) != 1:
        raise SystemExit(f'benchmark_compat: times of different machines are not compared: {sorted(machine)}')
    device, threads, version = machine.pop()
    calls = [int(row[key]) for row in rows for key in ('loop_calls', 'compat_calls') if row[key]]
    number = f'{min(calls)} to {max(calls)}' if min(calls) < max(calls) else f'{min(calls)}'
    lines = [
        f'{device}, threads: {threads}, torch {version}. Time of forward and backward, median of {number} calls:',
        '',
        '| loss | data | logits | positives | loop | compat | times as fast |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        ours = float(row['compat_ms'])
        loop = seconds(float(row['loop_ms']) / 1000) if row['loop_ms'] else row['note']
        ratio = f'{float(row["loop_ms"]) / ours:.2g}' if row['loop_ms'] else ''
        cells = [row['loss'], row['data'], f'{int(row["logits"]):,}', f'{int(row["positives"]):,}']
        lines.append('| ' + ' | '.join([*cells, loop, seconds(ours / 1000), ratio]) + ' |')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark_compat.csv'), help='CSV to write')
    parser.add_argument('--page', type=Path, help='Markdown page whose table is rewritten')
    parser.add_argument('--report', action='store_true', help='measure nothing; read the CSV that --out names')
    parser.add_argument('--sizes', nargs='+', type=int, default=SIZES, help='numbers of logits')
    parser.add_argument('--positives', nargs='+', type=int, default=POSITIVES, help='numbers of positives')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--repeats', type=int, default=9, help='timed calls of each, at most')
    parser.add_argument('--max-seconds', type=float, default=120, help='leave out loops that take longer')
    args = parser.parse_args(argv)
    if not args.report:
        device = torch.device(args.device)
        machine = dict(device=processor(device), threads=torch.get_num_threads(), torch=torch.__version__)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open('w', newline='') as file:
            writer = csv.DictWriter(file, COLUMNS, restval='')
            writer.writeheader()
            for data in DATA:
                for number in args.sizes:
                    for positives in args.positives:
                        tensors = (tensor.to(device) for tensor in synthetic_logits(number, positives, data))
                        logits, targets = tensors
                        for name in pairs():
                            row = measure(name, logits, targets, args.repeats, args.max_seconds)
                            writer.writerow({**row, **machine, 'data': data, 'logits': number, 'positives': positives})
                            file.flush()
    rows = read_csv(args.out)
    print(table(rows))
    if args.page:
        write_block(args.page, 'benchmark', table(rows))
    print(f'\n{args.out}' + (f', {args.page}' if args.page else ''))


if __name__ == '__main__':
    main()
