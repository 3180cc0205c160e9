"""Counts what torch.compile with inductor makes of one call of each loss on a CPU, forward and backward, as Markdown.

python tools/benchmarks/count_kernels.py [--positives 1000 8192] [--negatives 100000] [--out FILE.csv]

``torch.compile(fullgraph=True, dynamic=True)``; the positives are given. ``kernels`` is inductor's own count,
torch._inductor.metrics.generated_kernel_count: on a CPU these are loops, each of which fuses several operations.
``functions`` are the C++ functions that contain them, and ``library calls`` the operations that inductor leaves to
PyTorch, such as sorts and searches; both are counted in the generated code. Needs a C++ compiler; no time is measured.
On a GPU, inductor generates other kernels.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from count_operations import LOSSES
from synthetic_data import synthetic_logits
from tables import markdown, write_csv
from torch import Tensor

from bucketed_losses import functional
from bucketed_losses.errors import one_line_errors

FUNCTION = re.compile(r'async_compile\.cpp')
LIBRARY_CALL = re.compile(r'^\s+(?:\w+ = )?(?:torch\.ops\.aten|aten|extern_kernels)\.[\w.]+\(', re.MULTILINE)


def count(loss: Callable[..., Any], num_positives: int, num_negatives: int) -> dict[str, int]:
    """The columns ``kernels``, ``functions`` and ``library_calls`` of one loss.

    Raises:
        RuntimeError: Inductor cannot compile, for example without a C++ compiler.
    """
    from torch._inductor import config, metrics
    from torch._inductor.utils import run_and_get_code

    logits, targets = synthetic_logits(num_positives + num_negatives, num_positives, 'paper')
    positives = (targets > 0).nonzero().squeeze(1)
    logits.requires_grad_()

    def value(logits: Tensor, targets: Tensor, positives: Tensor) -> Tensor:
        result = loss(logits, targets, positives=positives)
        return result.total if isinstance(result, functional.RankSort) else result

    torch._dynamo.reset()
    metrics.reset()
    compiled = torch.compile(value, fullgraph=True, dynamic=True, backend='inductor')
    with config.patch(fx_graph_cache=False):  # a cached graph is not counted
        _, graphs = run_and_get_code(lambda: compiled(logits, targets, positives).backward())
    return dict(
        kernels=metrics.generated_kernel_count,
        functions=sum(len(FUNCTION.findall(graph)) for graph in graphs),
        library_calls=sum(len(LIBRARY_CALL.findall(graph)) for graph in graphs),
    )


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--positives', type=int, nargs='+', default=[1000, 8192], metavar='P')
    parser.add_argument('--negatives', type=int, default=100_000, metavar='N')
    parser.add_argument('--losses', nargs='+', choices=LOSSES, default=list(LOSSES))
    parser.add_argument('--out', type=Path, help='CSV to write')
    args = parser.parse_args(argv)
    rows = []
    for num_positives in args.positives:
        for name in args.losses:
            counted = count(LOSSES[name], num_positives, args.negatives)
            rows.append(dict(loss=name, positives=num_positives, **counted, torch=torch.__version__))
    print(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    if args.out:
        write_csv(args.out, rows)


if __name__ == '__main__':
    main()
