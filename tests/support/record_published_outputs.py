"""Records what the published autograd Functions return, for ``tests/core/test_compat.py``.

python tests/support/record_published_outputs.py RANKING_LOSSES.py

The argument is ``mmdet/models/losses/ranking_losses.py`` of https://github.com/kemaloksuz/RankSortLoss, at commit
b41f64df70b1f8e3260e5c04015e0c7b59b339d9. It runs on the CPU here: ``Tensor.cuda`` is replaced by a function that
returns the tensor. Writes ``tests/data/published_outputs.npz`` with keys ``CASE/FIELD``:

    loss                RankSort, APLoss or aLRPLoss
    logits, targets     inputs, (n,) float32; for aLRPLoss also box_errors (P,)
    delta, eps          arguments; eps is absent where the default was used
    output0, output1    what ``apply`` returned, without the order of aLRPLoss
    scales              upstream gradients of these outputs
    gradient            of the logits, (n,)
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[1] / 'data/published_outputs.npz'


def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Logits, IoUs as targets, and delta; every third case has tied logits and few distinct IoUs."""
    generator = torch.Generator().manual_seed(seed)
    number = int(torch.randint(5, 120, (), generator=generator))
    positives = int(torch.randint(1, number // 2, (), generator=generator))
    logits = 1.5 * torch.randn(number, generator=generator)
    ious = torch.rand(number, generator=generator).clamp(min=0.01)
    if seed % 3 == 0:
        logits, ious = (4 * logits).round() / 4, (5 * ious).ceil() / 5
    ious[positives:] = 0
    ious[-3:] = -1
    order = torch.randperm(number, generator=generator)
    return logits[order], ious[order], (0.1, 0.5, 1.0, 2.0)[seed % 4]


def main(path: str) -> None:
    torch.Tensor.cuda = lambda self: self  # type: ignore[method-assign,assignment]
    published = runpy.run_path(path)
    record: dict[str, object] = {}
    for seed in range(30):
        name = ('RankSort', 'APLoss', 'aLRPLoss')[seed % 3 - seed // 3 % 3]
        logits, targets, delta = inputs(seed)
        box_errors = 1 - targets[targets > 0]
        if name != 'RankSort':
            targets = torch.where(targets > 0, 1.0, targets)
        # A large eps leaves updates out; the default one does so at most by a rounding error.
        eps = [0.4] if seed >= 15 and name != 'APLoss' else []
        leaf = logits.clone().requires_grad_()
        result = published[name].apply(leaf, targets, *([box_errors] if name == 'aLRPLoss' else []), delta, *eps)
        outputs = [result] if name == 'APLoss' else list(result[:2])
        scales = [2.0, 3.0][: len(outputs)]
        sum(scale * output.sum() for scale, output in zip(scales, outputs, strict=True)).backward()
        fields = dict(loss=name, logits=logits, targets=targets, delta=delta, scales=scales, gradient=leaf.grad)
        fields |= {f'output{index}': output.detach() for index, output in enumerate(outputs)}
        fields |= dict(box_errors=box_errors) if name == 'aLRPLoss' else {}
        fields |= dict(eps=eps[0]) if eps else {}
        record |= {f'{name}-{seed:02d}/{key}': np.asarray(value) for key, value in fields.items()}
    np.savez_compressed(OUT, **record)


if __name__ == '__main__':
    main(*sys.argv[1:])
