"""Bucketed AP and RS Loss as they were published: Algorithm 2, a sort of all logits, then P x B matrices.

A reference for values and, in ``benchmark_losses.py``, for cost. Shares no code with the package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .loop_over_positives import step


def bucketed_by_matrices(logits: Tensor, targets: Tensor, delta: float, sort: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Ranking value, sorting value (0 if not ``sort``) and gradient of flat logits and targets (below 0: ignored)."""
    grad = torch.zeros_like(logits)
    positive, negative = targets > 0, targets == 0
    if not positive.any():
        return logits.sum() * 0, logits.sum() * 0, grad
    negative &= logits >= logits[positive].min() - delta

    # Everything that takes part, best first; a negative before the positives it ties with, as H(0) = 1 for delta = 0.
    indices = torch.cat([negative.nonzero().squeeze(1), positive.nonzero().squeeze(1)])
    indices = indices[logits[indices].sort(descending=True, stable=True).indices]
    is_positive = positive[indices]
    order, where = indices[is_positive].flip(0), indices[~is_positive]
    s, t, n = logits[order], targets[order], logits[where]
    num_pos = len(s)
    above = (num_pos - is_positive.cumsum(0))[~is_positive]  # bucket b lies above b positives
    sizes = torch.bincount(above, minlength=num_pos + 1).to(s.dtype)
    means = torch.bincount(above, weights=n.double(), minlength=num_pos + 1).to(s.dtype) / sizes.clamp(min=1)

    steps = step(means[None, :] - s[:, None], delta) * (sizes > 0)  # (P, B)
    above_pos = step(s[None, :] - s[:, None], delta)  # (P, P)
    rank_pos, false = above_pos.sum(1), steps @ sizes
    rank = rank_pos + false
    ranking = false / rank
    grad[where] = (steps / rank[:, None]).sum(0)[above] / num_pos
    positive_grad = -ranking
    sorting = torch.zeros_like(s)
    if sort:
        current = (above_pos * (1 - t)).sum(1) / rank_pos
        better = above_pos * (t[None, :] >= t[:, None])
        sorting = current - (better * (1 - t)).sum(1) / better.sum(1)
        worse = above_pos * (t[None, :] < t[:, None])
        total = worse.sum(1)
        share = torch.where(total > 0, sorting / total, 0)
        positive_grad = positive_grad + (share[:, None] * worse).sum(0) - torch.where(total > 0, sorting, 0)
    grad[order] = positive_grad / num_pos
    return ranking.mean(), sorting.mean(), grad
