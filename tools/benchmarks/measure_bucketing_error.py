"""How far the paper's bucketing is from the exact loss: relative error of the negatives' gradient on synthetic data.

python tools/benchmarks/measure_bucketing_error.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from bucketed_losses import functional


def gradient_distance(num_logits: int, positive_share: float, delta: float, seed: int) -> float:
    """``|g_bucketed - g_exact| / |g_exact|`` over negatives, AP Loss, on the paper's synthetic data (S.3.2)."""
    generator = torch.Generator().manual_seed(seed)
    num_pos = round(num_logits * positive_share)
    logits = torch.randn(num_logits, generator=generator, dtype=torch.float64) + 1
    logits[:num_pos] -= 2
    targets = torch.zeros(num_logits, dtype=torch.float64)
    targets[:num_pos] = 1

    def grad(loss: Callable[..., Tensor]) -> Tensor:
        leaf = logits.clone().requires_grad_()
        loss(leaf, targets, delta).backward()
        assert leaf.grad is not None
        return leaf.grad[num_pos:]

    exact = grad(functional.ap_loss)
    return float((grad(functional.bucketed_ap_loss) - exact).norm() / exact.norm())


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args(argv)
    deltas = (0.0, 0.25, 0.5, 1.0)
    print('| logits | positives | ' + ' | '.join(f'δ = {delta:g}' for delta in deltas) + ' |')
    print('|---' * (2 + len(deltas)) + '|')
    for num_logits in (10_000, 100_000, 1_000_000):
        for share in (0.001, 0.01, 0.05):
            errors = [gradient_distance(num_logits, share, delta, seed=0) for delta in deltas]
            print(f'| {num_logits} | {share:.1%} | ' + ' | '.join(f'{error:.2%}' for error in errors) + ' |')


if __name__ == '__main__':
    main()
