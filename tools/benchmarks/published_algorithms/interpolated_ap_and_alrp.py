"""AP Loss with interpolated precisions and the classification part of aLRP Loss by a loop over the positives, as
published in 2020, in plain PyTorch.

References for values in the tests and for time in ``benchmark_compat.py``; share no code with the package.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .loop_over_positives import step


def interpolated_ap_by_loop(logits: Tensor, targets: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Value and gradient; flat logits, targets 1 (positive), 0 (negative) or anything else (ignored)."""
    positive, negative = _take_part(logits, targets, delta)
    s, n = logits[positive], logits[negative]
    errors, negative_grad = torch.zeros_like(s), torch.zeros_like(n)
    smallest = logits.new_ones(())
    for i, rank_pos, _, false, num_false in _ranks(s, n, delta):
        error = num_false / (rank_pos + num_false)
        smallest = torch.minimum(smallest, error)
        errors[i] = smallest
        if num_false > 0:
            negative_grad += false * (smallest / num_false)
    grad = torch.zeros_like(logits)
    grad[positive], grad[negative] = -errors / len(s), negative_grad / len(s)
    return errors.mean(), grad


def alrp_by_loop(logits: Tensor, targets: Tensor, box_errors: Tensor, delta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Value, ranks of the positives, and gradient; arguments as above, and a box error for each positive."""
    positive, negative = _take_part(logits, targets, delta)
    s, n = logits[positive], logits[negative]
    ranks, precisions = torch.zeros_like(s), torch.zeros_like(s)
    positive_grad, negative_grad = torch.zeros_like(s), torch.zeros_like(n)
    for i, rank_pos, above, false, num_false in _ranks(s, n, delta):
        ranks[i] = rank_pos + num_false
        precisions[i] = rank_pos / ranks[i]
        if num_false > 1e-5:
            error = ((above * box_errors).sum() + num_false) / ranks[i]
            positive_grad[i] = -error
            negative_grad += false * (error / num_false)
    grad = torch.zeros_like(logits)
    grad[positive], grad[negative] = positive_grad / len(s), negative_grad / len(s)
    return 1 - precisions.mean(), ranks, grad


def _take_part(logits: Tensor, targets: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Masks of the positives (at least one), and of the negatives that can rank above one of them."""
    positive = targets == 1
    return positive, (targets == 0) & (logits >= logits[positive].min() - delta)


def _ranks(s: Tensor, n: Tensor, delta: float) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """For each positive, lowest first: its index, 1 plus the other positives above it, and H of these; H of the
    negatives, and their sum."""
    for i in s.argsort():
        above, false = step(s - s[i], delta), step(n - s[i], delta)
        above[i] = 0
        yield i, 1 + above.sum(), above, false, false.sum()
