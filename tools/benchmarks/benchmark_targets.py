"""Passes over the logits and peak memory of a dense head's loss, with a dense tensor of targets and with SparseTargets.

python tools/benchmarks/benchmark_targets.py [--rows 89600] [--classes 80] [--positives 1000] [--out FILE.csv]

Forward and backward of each loss, the targets included: from the labels, IoUs and weights of the predictions, as the
heads have them. The rows of the positives are given both times. The default size is that of ATSS on 4 images of 800 x
1344 pixels with 80 classes and one anchor per location. A pass is an operation that reads or writes each of the
N = rows x classes entries once. Peak memory is what is allocated on top of logits, labels, IoUs and weights, the
gradient included. ``way`` is the algorithm that ran: that of a CPU, or that of an accelerator, which runs on the CPU
here. No time is measured, so the numbers depend on the version of torch alone. Needs MMDetection.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import peak_bytes_of
from operations import CountElementOperations
from tables import markdown, write_csv
from torch import Tensor

from bucketed_losses import functional
from bucketed_losses.core.devices import as_on_an_accelerator
from bucketed_losses.errors import one_line_errors
from bucketed_losses.mmdet.models.losses.ranking_losses import entry_targets, sparse_targets

LOSSES: dict[str, Callable[..., Any]] = {
    'AP': functional.ap_loss,
    'BAP': functional.bucketed_ap_loss,
    'RS': functional.rs_loss,
    'BRS': functional.bucketed_rs_loss,
}
WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {'CPU': nullcontext, 'accelerator': as_on_an_accelerator}


class Predictions(NamedTuple):
    """What a dense head hands to its loss."""

    logits: Tensor
    """``(n, num_classes)`` float32 from N(-4, 1.5^2), a leaf."""
    labels: Tensor
    """``(n,)`` int64, ``num_classes`` for background."""
    ious: Tensor
    """``(n,)``, uniform for positives."""
    weight: Tensor
    """``(n,)``; one in a hundred predictions is ignored."""
    positive: Tensor
    """``(P,)`` int64 rows."""


def predictions(rows: int, num_classes: int, num_positives: int) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, num_classes, generator=generator).mul_(1.5).sub_(4).requires_grad_()
    positive = torch.randperm(rows, generator=generator)[:num_positives].sort().values
    labels = torch.full((rows,), num_classes)
    labels[positive] = torch.randint(0, num_classes, (num_positives,), generator=generator)
    ious = torch.rand(rows, generator=generator)
    weight = (torch.rand(rows, generator=generator) >= 0.01).float()
    weight[positive] = 1
    return Predictions(logits, labels, ious, weight, positive)


def step(loss: Callable[..., Any], given: Predictions, sparse: bool) -> None:
    """One forward and backward pass."""
    logits, labels, ious, weight, positive = given
    if sparse:
        result = loss(logits, sparse_targets(logits, labels, ious, weight, positive))
    else:
        entries = positive * logits.size(1) + labels.index_select(0, positive)
        result = loss(logits, entry_targets(logits, labels, ious, weight), positives=entries)
    (result.total if isinstance(result, functional.RankSort) else result).backward()
    logits.grad = None


def measure(given: Predictions) -> Iterator[dict[str, Any]]:
    """For each way, loss and kind of targets: passes over the logits, and peak memory in bytes."""
    num = given.logits.numel()
    for way, context in WAYS.items():
        for name, loss in LOSSES.items():
            for targets in ('dense', 'sparse'):
                with context():
                    peak = peak_bytes_of(lambda: step(loss, given, targets == 'sparse'), given.logits.device)  # noqa: B023
                    with CountElementOperations() as counted:
                        step(loss, given, targets == 'sparse')
                yield dict(
                    way=way, loss=name, targets=targets, logits=num, positives=len(given.positive),
                    passes=round(counted.touched / num, 2), peak_bytes=peak, torch=torch.__version__,
                )  # fmt: skip


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--rows', type=int, default=89_600, metavar='N', help='predictions')
    parser.add_argument('--classes', type=int, default=80, metavar='C', help='classes')
    parser.add_argument('--positives', type=int, default=1000, metavar='P', help='positive predictions')
    parser.add_argument('--out', type=Path, help='CSV to write')
    args = parser.parse_args(argv)
    rows = list(measure(predictions(args.rows, args.classes, args.positives)))
    print(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    if args.out:
        write_csv(args.out, rows)


if __name__ == '__main__':
    main()
