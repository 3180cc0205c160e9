"""Time, memory and operations of the ranking losses and of other losses, in one run on the same tensors.

python tools/benchmarks/benchmark_losses.py [--out DIR] [--large] [--scaling] [--profile] [--losses NAME ...]
                                            [--threads N] [--config CONFIG [--checkpoint FILE]]
python tools/benchmarks/benchmark_losses.py --curve [--out DIR] [--threads N] [--sizes N ...]

Measures forward and backward of our losses (AP, BAP, RS, BRS, aLRP and DR Loss), of the published algorithms (the
loop over positives and the P x B matrices of published_algorithms/), and of focal, quality focal and cross-entropy loss
(usual_losses.py); for comparison a sort of the logits and one read and write of them. Torch suffices; matplotlib draws
the figures, and only --config needs MMDetection. Data:

    synthetic     the paper's (S.3.2): positives from N(-1, 1), negatives from N(1, 1), uniform IoUs
    trained-like  what a detector sees after its first epochs: positives from N(0, 1), negatives from N(-6, 1.5^2)
    captured      with --config: logits and targets of the largest loss call of one training step
    more negatives, more positives
                  with --scaling: synthetic data with the number of the other one fixed

Losses take turns, so that a change in the speed of the machine affects all of them; medians are reported. Except for
the loops, a call that is not timed comes before each timed call.
Peak memory is what a call allocates on top of its inputs, gradient included (CUDA's allocator, the profiler on a CPU).
Operations: every ATen operation that is neither a view nor an allocation counts the elements of its largest tensor, a
sort n log2 n, a search log2 of the length per value. Writes benchmark.csv, benchmark_time.png and benchmark_memory.png;
what would not fit into memory, or take longer than --max-seconds, is left out with the reason and with what it would
need at least: the time of a loop, estimated from 20 of its positives, or the bytes of the matrices. report_benchmark.py
makes tables of it.

--curve measures how time and memory of RS and BRS Loss grow from 10,000 to 100 million logits, one in a thousand of
them positive (synthetic data), next to binary cross-entropy and to the published algorithms on the same tensors. It
writes scaling.csv, scaling_time.png and scaling_memory.png instead. 100 million logits need about 8 GB of memory.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmark_figures import FIGURE_LOSSES, draw_both
from contestants import Case, Loss, losses, synthetic
from machine import processor
from measuring import peak_bytes_of, seconds_of
from operations import CountElementOperations
from report_benchmark import COLUMNS, OTHERS, OURS, percent, seconds, table

SHARES = (0.001, 0.01, 0.02, 0.05)
SIZES = (10_000, 100_000, 1_000_000)
# What --curve measures.
CURVE_SIZES = tuple(10**exponent for exponent in range(4, 9))
CURVE_SHARE = 0.001
CURVE_LOSSES = ('RS', 'BRS', 'cross-entropy', 'BRS by matrices', 'RS by loop')


def operations(loss: Loss, case: Case) -> float:
    def count(case: Case) -> float:
        with CountElementOperations() as mode:
            loss.run(case)
        case.leaf.grad = None
        return mode.total

    if not loss.loops or case.positives <= 8:
        return count(case)
    # The loop does the same for every positive.
    few, more = count(case.with_positives(4)), count(case.with_positives(8))
    return few + (more - few) / 4 * (case.positives - 4)


def peak_bytes(loss: Loss, case: Case) -> int:
    """Allocated on top of what is there before, at the highest."""
    if loss.loops:  # an iteration frees what it made
        case = case.with_positives(4)
    loss.run(case)
    case.leaf.grad = None
    peak = peak_bytes_of(lambda: loss.run(case), case.leaf.device)
    case.leaf.grad = None
    return peak


def timed(loss: Loss, case: Case) -> float:
    """Seconds of one call."""
    spent = seconds_of(lambda: loss.run(case), case.leaf.device)
    case.leaf.grad = None
    return spent


def available_bytes(device: torch.device) -> int:
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    lines = Path('/proc/meminfo').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable'))


def reason_to_skip(loss: Loss, case: Case, max_seconds: float) -> dict[str, Any]:
    """The columns ``note`` and what the loss would need; an empty note if the loss can be run."""
    need = loss.matrices * 4 * case.positives**2
    have = available_bytes(case.leaf.device)
    if need > 0.8 * have:
        note = f'needs {need / 1e9:.2g} GB for its matrices, {have / 1e9:.2g} GB available'
        return dict(note=note, needed_bytes=need)
    if loss.loops and case.positives > 40:
        for _ in range(2):
            estimate = timed(loss, case.with_positives(20)) / 20 * case.positives
        if estimate > max_seconds:
            of_20 = seconds(estimate / case.positives * 20)
            note = f'would take {seconds(estimate)} (20 of its positives took {of_20})'
            return dict(note=note, estimated_milliseconds=round(1000 * estimate, 4))
    return dict(note='')


def measure(
    case: Case, contestants: list[Loss], repeats: int, max_seconds: float, at_least: int = 1
) -> list[dict[str, Any]]:
    """One row per contestant. Slow calls are repeated ``at_least`` times, loops once."""
    rows: dict[str, dict[str, Any]] = {
        loss.name: dict(
            data=case.data, logits=len(case.logits), positives=case.positives, loss=loss.name,
            **reason_to_skip(loss, case, max_seconds),
        )
        for loss in contestants
    }  # fmt: skip
    running = [loss for loss in contestants if not rows[loss.name]['note']]
    for loss in contestants:
        if not rows[loss.name].get('needed_bytes'):
            rows[loss.name].update(peak_bytes=peak_bytes(loss, case))
    for loss in running:
        rows[loss.name].update(operations=round(operations(loss, case)))
    times: dict[str, list[float]] = {loss.name: [] for loss in running}
    for _ in range(repeats):
        for loss in running:
            spent = times[loss.name]
            if len(spent) >= (1 if loss.loops else at_least) and sum(spent) > max_seconds / 10:
                continue  # slow, and known well enough
            if not loss.loops and (not spent or spent[-1] < 0.5):
                timed(loss, case)
            spent.append(timed(loss, case))
    for name, spent in times.items():
        rows[name].update(milliseconds=round(1000 * statistics.median(spent), 4), repeats=len(spent))
    for row in rows.values():
        loop = 'RS by loop' if 'RS' in row['loss'] else 'AP by loop'
        for column, peer in (('to_focal', 'focal'), ('to_loop', '' if row['loss'] in OTHERS else loop)):
            if peer in times and row['loss'] in times:
                row[column] = round(row['milliseconds'] / rows[peer]['milliseconds'], 4)
    return list(rows.values())


def time_by_operation(loss: Loss, case: Case, most: int = 8) -> str:
    """What the time goes to: the ATen operations with the largest shares, by the profiler."""
    loss.run(case)
    with torch.profiler.profile() as profiler:
        for _ in range(5):
            loss.run(case)
            case.leaf.grad = None
    on_device = case.leaf.is_cuda
    spent = {e.key: e.self_device_time_total if on_device else e.self_cpu_time_total for e in profiler.key_averages()}
    total = sum(spent.values())
    ranked = sorted(spent.items(), key=lambda item: -item[1])[:most]
    return ', '.join(f'{name.removeprefix("aten::")} {value / total:.0%}' for name, value in ranked)


def capture(config: str, checkpoint: str | None, path: Path, device: torch.device) -> Case:
    """The largest call of a ranking loss in one training step, also written to ``path``."""
    from bucketed_losses.study.times import TimedRun, targets_of_call

    run = TimedRun(config, str(path.parent / 'captured_step'), [])
    if checkpoint:
        run.runner.load_checkpoint(checkpoint)
    run.step()
    calls = [
        (pred.detach().flatten(), targets_of_call(pred.detach(), *rest, **kwargs).flatten())
        for _, (pred, *rest), kwargs in run.loss_calls
    ]
    logits, targets = max(calls, key=lambda call: len(call[0]))
    torch.save({'logits': logits.cpu(), 'targets': targets.cpu()}, path)
    return Case('captured', logits.to(device), targets.to(device))


def cases(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[Case, list[Loss]]]:
    everything = losses()
    if args.curve:
        chosen = [loss for loss in everything if loss.name in CURVE_LOSSES]
        for number in args.sizes or CURVE_SIZES:
            yield synthetic(number, max(round(number * CURVE_SHARE), 1), 'synthetic', device), chosen
        return
    if args.losses:
        everything = [loss for loss in everything if loss.name in ('focal', *args.losses)]
    sizes = [*(args.sizes or SIZES), *([10_000_000] if args.large else [])]
    for data in ('synthetic', 'trained-like'):
        for number in sizes:
            for share in args.shares:
                yield synthetic(number, max(round(number * share), 1), data, device), everything
    if args.config:
        yield capture(args.config, args.checkpoint, args.out / 'captured.pt', device), everything
    if args.scaling:
        cheap = [loss for loss in everything if loss.name in (*OURS, *OTHERS, 'focal')]
        for number in (100_000, 1_000_000, 10_000_000):
            yield synthetic(number, 1000, 'more negatives', device), cheap
        for positives in (1000, 10_000, 100_000):
            yield synthetic(1_000_000 + positives, positives, 'more positives', device), cheap


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark_losses'), help='folder to write to')
    names = [loss.name for loss in losses()]
    parser.add_argument(
        '--losses', nargs='+', choices=names, metavar='NAME', help='measure only these losses and focal loss'
    )
    parser.add_argument('--sizes', nargs='+', type=int, help='numbers of logits')
    parser.add_argument('--curve', action='store_true', help='measure only the growth up to 100 million logits')
    parser.add_argument('--shares', nargs='+', type=float, default=SHARES, help='shares of positives')
    parser.add_argument('--large', action='store_true', help='also measure 10 million logits')
    parser.add_argument('--scaling', action='store_true', help='also measure the growth with negatives and positives')
    parser.add_argument('--config', help='capture the inputs of one training step of this config')
    parser.add_argument('--checkpoint', help='weights for --config, e.g. of a trained detector')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, help='threads of torch on the CPU; default: 1 with --curve, else all')
    parser.add_argument('--repeats', type=int, default=15, help='timed calls per loss and case')
    parser.add_argument('--profile', action='store_true', help='also print the time of each operation of our losses')
    parser.add_argument('--max-seconds', type=float, default=30, help='leave out losses whose call takes longer')
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.threads or args.curve:
        torch.set_num_threads(args.threads or 1)
    name = 'scaling' if args.curve else 'benchmark'

    machine = {'device': processor(device), 'threads': torch.get_num_threads(), 'torch': torch.__version__}
    print(', '.join(f'{key} {value}' for key, value in machine.items()), flush=True)
    rows: list[dict[str, Any]] = []
    # As in a training process, which has freed larger tensors: glibc then takes memory from its heap and keeps it, and
    # no call pays for new pages. Its limits follow the largest block freed, up to 32 MiB.
    torch.empty(7 * 2**20, device=device).fill_(0)
    with (args.out / f'{name}.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, restval='')
        writer.writeheader()
        for case, contestants in cases(args, device):
            measured = measure(case, contestants, args.repeats, args.max_seconds, 3 if args.curve else 1)
            rows += [{**row, **machine} for row in measured]
            writer.writerows(rows[-len(measured) :])
            file.flush()
            print(f'\n{case.data}, {len(case.logits)} logits, {percent(case.positives / len(case.logits))} positives')
            print(table([{key: str(value) for key, value in row.items()} for row in measured]), flush=True)
            if args.profile:
                for loss in (loss for loss in contestants if loss.name in OURS):
                    print(f'{loss.name}: {time_by_operation(loss, case)}', flush=True)
    written = [args.out / f'{name}.csv']
    if find_spec('matplotlib') is not None:
        written += draw_both(written[0], args.out, CURVE_LOSSES if args.curve else FIGURE_LOSSES)
    print('\nwrote', *written)


if __name__ == '__main__':
    main()
