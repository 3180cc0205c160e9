"""AP and RS Loss as they were published before bucketing: Algorithm 1, a loop over the positives, in plain PyTorch.

A reference for values in tests and benchmarks, and for time in :mod:`bucketed_losses.study.times`. Shares no code with
the losses of this package.
"""

from __future__ import annotations

import torch
from torch import Tensor


def step(x: Tensor, delta: float) -> Tensor:
    """Eq. 2."""
    return (x / (2 * delta) + 0.5).clamp(0, 1) if delta > 0 else (x >= 0).to(x.dtype)


def loop_over_positives(logits: Tensor, targets: Tensor, delta: float, sort: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Ranking value, sorting value (0 if not ``sort``) and gradient of flat logits and targets (below 0: ignored)."""
    positive, negative = targets > 0, targets == 0
    s, t = logits[positive], targets[positive]
    # Negatives that no positive ranks below itself have no gradient and change no rank.
    negative = negative & (logits >= (s.min() - delta if len(s) else float('inf')))
    n = logits[negative]
    ranking, sorting = torch.zeros_like(s), torch.zeros_like(s)
    positive_grad, negative_grad = torch.zeros_like(s), torch.zeros_like(n)
    for i in range(len(s)):
        above, false = step(s - s[i], delta), step(n - s[i], delta)
        rank_pos, num_false = above.sum(), false.sum()
        rank = rank_pos + num_false
        ranking[i] = num_false / rank
        if num_false > 0:
            negative_grad += false / rank
            positive_grad[i] -= ranking[i]
        if sort:
            current = (above * (1 - t)).sum() / rank_pos
            better = above * (t >= t[i])
            target = (better * (1 - t)).sum() / better.sum()
            sorting[i] = current - target
            worse = above * (t < t[i])
            if worse.sum() > 0:
                positive_grad += sorting[i] * worse / worse.sum()
                positive_grad[i] -= sorting[i]
    grad = torch.zeros_like(logits)
    if len(s):
        grad[positive], grad[negative] = positive_grad / len(s), negative_grad / len(s)
    count = max(len(s), 1)
    return ranking.sum() / count, sorting.sum() / count, grad
