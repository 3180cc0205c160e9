"""Slow, plain references: the definitions of the paper as loops over numbers, in Python floats (float64).

Nothing here shares code with the package; every sum is written as the paper writes it.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Reference(NamedTuple):
    ranking: float
    sorting: float
    ranking_grad: list[float]
    sorting_grad: list[float]


def step(x: float, delta: float) -> float:
    """Eq. 2."""
    if delta == 0:
        return 1.0 if x >= 0 else 0.0
    return min(max(x / (2 * delta) + 0.5, 0.0), 1.0)


def loop_rs_loss(logits: list[float], targets: list[float], delta: float) -> Reference:
    """AP and RS Loss by a double loop (Algorithm 1, Eq. 1 to 11, S.1 to S.9)."""
    s, t = logits, targets
    pos = [i for i in range(len(s)) if t[i] > 0]
    neg = [j for j in range(len(s)) if t[j] == 0]
    ranking_grad, sorting_grad = [0.0] * len(s), [0.0] * len(s)
    if not pos:
        return Reference(0.0, 0.0, ranking_grad, sorting_grad)
    ranking_terms, sorting_terms = [], []
    for i in pos:
        above = {k: step(s[k] - s[i], delta) for k in pos}
        false = {j: step(s[j] - s[i], delta) for j in neg}
        rank_pos, num_false = math.fsum(above.values()), math.fsum(false.values())
        rank = rank_pos + num_false
        ranking_terms.append(num_false / rank)
        # Primary terms L_ij of the ranking part (Eq. 9): l_R(i) p_R(j|i) = H(x_ij) / rank(i).
        for j in neg:
            if num_false > 0:
                primary = (num_false / rank) * (false[j] / num_false)
                ranking_grad[j] += primary / len(pos)
                ranking_grad[i] -= primary / len(pos)
        current = math.fsum(above[k] * (1 - t[k]) for k in pos) / rank_pos
        better = [k for k in pos if t[k] >= t[i]]
        target = math.fsum(above[k] * (1 - t[k]) for k in better) / math.fsum(above[k] for k in better)
        sorting_terms.append(current - target)
        # Primary terms of the sorting part (Eq. 11, S.7).
        worse = [k for k in pos if t[k] < t[i]]
        total = math.fsum(above[k] for k in worse)
        for k in worse:
            if total > 0:
                primary = (current - target) * above[k] / total
                sorting_grad[k] += primary / len(pos)
                sorting_grad[i] -= primary / len(pos)
    return Reference(
        math.fsum(ranking_terms) / len(pos), math.fsum(sorting_terms) / len(pos), ranking_grad, sorting_grad
    )


def loop_bucketed_ranking(logits: list[float], targets: list[float], delta: float) -> tuple[float, list[float]]:
    """The ranking part of Bucketed AP/RS Loss by loops (Algorithm 2, Eq. 12 to 14, S.22): value and gradient."""
    s, t = logits, targets
    pos = [i for i in range(len(s)) if t[i] > 0]
    grad = [0.0] * len(s)
    if not pos:
        return 0.0, grad
    floor = min(s[i] for i in pos) - delta
    edges = sorted(s[i] for i in pos)
    buckets: dict[int, list[int]] = {}
    for j in range(len(s)):
        if t[j] == 0 and s[j] >= floor:
            buckets.setdefault(sum(edge <= s[j] for edge in edges), []).append(j)
    # All-equal members have exactly their value as mean; fsum / n could miss it by one rounding.
    means = {
        b: s[m[0]] if len({s[j] for j in m}) == 1 else math.fsum(s[j] for j in m) / len(m) for b, m in buckets.items()
    }
    total = 0.0
    for i in pos:
        counted = {b: len(m) * step(means[b] - s[i], delta) for b, m in buckets.items()}
        num_false = math.fsum(counted.values())
        rank = math.fsum(step(s[k] - s[i], delta) for k in pos) + num_false
        total += num_false / rank / len(pos)
        grad[i] -= num_false / rank / len(pos)
        for b, members in buckets.items():
            for j in members:
                grad[j] += counted[b] / len(members) / rank / len(pos)
    return total, grad
