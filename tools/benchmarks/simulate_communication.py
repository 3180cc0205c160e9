"""What ranking across all GPUs costs in communication, from the positives that detectors' heads have; as Markdown.

python tools/benchmarks/simulate_communication.py CONFIG [CONFIG ...] [--gpus 8 64 512] [--latency-us 5]
                                                  [--bandwidth-gb-s 20]

Every call of a ranking loss on 4 images of 800 x 1333 with 7 objects each (random boxes, random features) is one row's
share: N logits and P positives per GPU. Bytes are what one GPU sends and receives for a step: ``global``, its three
collectives per call and the two of the box loss; ``gather``, the alternative that sends all logits and labels to
everyone; ``gradients``, the all-reduce that DistributedDataParallel does anyway. Times are a model, not a measurement:

    all-gather of m bytes per GPU (ring):   (G - 1) (latency + m / bandwidth)
    all-reduce of s bytes (double tree):    2 log2(G) latency + 2 s / bandwidth

``compute`` is measured on this machine: one process's share of the ranking losses of a step, the positives of all G
GPUs ranked against its own negatives, relative to the same with its own positives alone.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from profile_loss_share import HeadsOnCOCOSize
from torch import nn

from bucketed_losses.core.devices import split
from bucketed_losses.core.identity_update import identity_update
from bucketed_losses.core.positives import rank_positives
from bucketed_losses.mmdet.models.losses import RankingLoss


@dataclass
class Call:
    """One call of a ranking loss on one GPU."""

    num_logits: int
    num_pos: int
    loss: RankingLoss

    @property
    def exact(self) -> bool:
        return not type(self.loss).__name__.startswith('Bucketed')


@dataclass
class Network:
    """``latency`` in seconds, ``bandwidth`` in bytes per second and GPU."""

    latency: float
    bandwidth: float

    def all_gather(self, size: float, gpus: int) -> tuple[float, float]:
        """Bytes through one GPU and seconds; ``size`` bytes per GPU."""
        return 2 * (gpus - 1) * size, (gpus - 1) * (self.latency + size / self.bandwidth)

    def all_reduce(self, size: float, gpus: int) -> tuple[float, float]:
        return 4 * size, 2 * math.log2(gpus) * self.latency + 2 * size / self.bandwidth


def calls_of_a_step(model: nn.Module, step: Any) -> list[Call]:
    """The calls of all ranking losses, in order."""
    calls = []

    def record(module: RankingLoss, args: tuple, kwargs: dict) -> None:
        calls.append(Call(args[0].numel(), len(kwargs['positive']), module))

    for module in model.modules():
        if isinstance(module, RankingLoss):
            module.register_forward_pre_hook(record, with_kwargs=True)
    step()
    return calls


def buckets(call: Call, gpus: int) -> int:
    """How many buckets the positives of all GPUs make; see :mod:`bucketed_losses.core.buckets`."""
    positives = call.num_pos * gpus
    return 2 * positives + 1 if call.exact and call.loss.delta > 0 else positives + 2


def ranking_across(calls: list[Call], gpus: int, network: Network) -> tuple[float, float]:
    """Bytes and seconds of the collectives that scope='global' adds to a step; all GPUs have as many positives."""
    parts = []
    for call in calls:
        parts += [
            network.all_gather(16, gpus),  # a count and whether to go on, float64
            network.all_gather(16 * call.num_pos, gpus),  # a logit and a label each
            network.all_reduce(16 * buckets(call, gpus), gpus),  # a size and a sum each
            network.all_reduce(4, gpus),  # the box loss's normaliser
        ]
        if call.loss.self_balancing:
            parts.append(network.all_reduce(4, gpus))
    return sum(size for size, _ in parts), sum(seconds for _, seconds in parts)


def gathering_logits(calls: list[Call], gpus: int, network: Network) -> tuple[float, float]:
    """The O(N) alternative: every logit and target, float32, to every GPU."""
    parts = [network.all_gather(8 * call.num_logits, gpus) for call in calls]
    return sum(size for size, _ in parts), sum(seconds for _, seconds in parts)


def seconds_of_compute(call: Call, gpus: int, repeats: int) -> float:
    """One process's own work on a call; logits are random, at the offset that the paper's benchmark has."""
    generator = torch.Generator().manual_seed(0)
    positives = torch.randn(call.num_pos * gpus, generator=generator) - 1
    labels = torch.rand(len(positives), generator=generator).clamp(min=0.01)
    negatives = torch.randn(call.num_logits - call.num_pos, generator=generator) + 1
    times = []
    for _ in range(repeats + 1):
        copies = [piece.clone() for (piece,) in split(negatives)]
        began = time.perf_counter()
        ranked = rank_positives(positives, labels, call.loss.delta, sort=call.loss.needs_ious)
        identity_update(ranked, copies, call.loss.delta, call.exact)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def megabytes(size: float) -> str:
    return f'{size / 1e6:.3g}'


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument('--gpus', type=int, nargs='+', default=[8, 64, 512])
    parser.add_argument('--latency-us', type=float, default=5.0, help='of one hop')
    parser.add_argument('--bandwidth-gb-s', type=float, default=20.0, help='of one GPU, in 10^9 bytes per second')
    parser.add_argument('--repeats', type=int, default=3, help='of the compute measurement; 0 leaves it out')
    args = parser.parse_args(argv)
    if min(args.gpus) < 2:
        parser.error(f'--gpus must be at least 2, got {min(args.gpus)}')
    network = Network(args.latency_us / 1e6, args.bandwidth_gb_s * 1e9)
    columns = ['config', 'calls', 'N per GPU', 'P per GPU', 'GPUs', 'global MB', 'ms', 'gather MB', 'ms']
    columns += ['gradients MB', 'ms', 'compute']
    print('| ' + ' | '.join(columns) + ' |')
    print('|---' * len(columns) + '|')
    for config in args.configs:
        run = HeadsOnCOCOSize(config, [])
        calls = calls_of_a_step(run.model, run.step)
        parameters = 4 * sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        shape = [Path(config).stem, len(calls), sum(c.num_logits for c in calls), sum(c.num_pos for c in calls)]
        alone = sum(seconds_of_compute(call, 1, args.repeats) for call in calls) if args.repeats else math.nan
        for gpus in args.gpus:
            cells = [*map(str, shape), str(gpus)]
            for size, seconds in (
                ranking_across(calls, gpus, network),
                gathering_logits(calls, gpus, network),
                network.all_reduce(parameters, gpus),
            ):
                cells += [megabytes(size), f'{1e3 * seconds:.3g}']
            if args.repeats:
                compute = sum(seconds_of_compute(call, gpus, args.repeats) for call in calls)
                cells.append(f'{compute:.3g} s, {compute / alone:.1f} times')
            else:
                cells.append('')
            print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
