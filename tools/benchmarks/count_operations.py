"""Counts what one call of each loss launches on an accelerator, forward and backward, as Markdown.

python tools/benchmarks/count_operations.py [--positives 1000 8192] [--negatives 300000] [--groups G] [--delta DELTA]
                                             [--out FILE.csv]

The positives are given, and views of tensors are not counted. No accelerator is needed: a CPU runs the same operations.
Milliseconds are a model, the number of operations times 5 microseconds for a launch, and not a measurement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from operations import CountOperations
from synthetic_data import synthetic_logits
from tables import markdown, write_csv

from bucketed_losses import functional
from bucketed_losses.core.devices import as_on_an_accelerator
from bucketed_losses.errors import one_line_errors

LOSSES: dict[str, Callable] = {
    'AP': functional.ap_loss,
    'BAP': functional.bucketed_ap_loss,
    'RS': functional.rs_loss,
    'BRS': functional.bucketed_rs_loss,
}
MILLISECONDS_PER_LAUNCH = 0.005
"""An assumption."""


def count(
    loss: Callable, num_positives: int, num_negatives: int, delta: float | None = None, num_groups: int | None = None
) -> CountOperations:
    """Operations of the forward and the backward pass of one call.

    Args:
        loss: A function of :mod:`bucketed_losses.functional`.
        num_positives: P.
        num_negatives: N.
        delta: Half-width of the step; None for the loss's default.
        num_groups: Ranks as many groups, of nearly equal size, in the call; None ranks all logits together.
    """
    num = num_positives + num_negatives
    logits, targets = synthetic_logits(num, num_positives, 'paper')
    arguments: dict[str, Any] = {} if delta is None else {'delta': delta}
    if num_groups is not None:
        arguments |= {'groups': torch.arange(num) % num_groups, 'num_groups': num_groups}
    positives = (targets > 0).nonzero().squeeze(1)
    logits.requires_grad_()
    with as_on_an_accelerator(), CountOperations() as counted:
        result = loss(logits, targets, positives=positives, **arguments)
        value = result.total if isinstance(result, functional.RankSort) else result
        (value if num_groups is None else value.sum()).backward()
    return counted


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--positives', type=int, nargs='+', default=[1000, 2048, 8192, 50_000], metavar='P')
    parser.add_argument('--negatives', type=int, default=300_000, metavar='N')
    parser.add_argument('--delta', type=float, help='half-width of the step; by default that of each loss')
    parser.add_argument('--groups', type=int, metavar='G', help='rank G groups in one call')
    parser.add_argument('--out', type=Path, help='CSV to write')
    args = parser.parse_args(argv)
    rows = []
    for num_positives in args.positives:
        for name, loss in LOSSES.items():
            counted = count(loss, num_positives, args.negatives, args.delta, args.groups)
            operations = len(counted.names)
            rows.append(
                {
                    'loss': name,
                    'positives': num_positives,
                    'operations': operations,
                    'ms (model)': f'{operations * MILLISECONDS_PER_LAUNCH:.2f}',
                    'largest tensor, elements per logit': f'{counted.largest / (num_positives + args.negatives):.1f}',
                    'torch': torch.__version__,
                }
            )
    print(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    if args.out:
        write_csv(args.out, rows)


if __name__ == '__main__':
    main()
