"""The losses of 2020 and 2021 by loops over their definitions, in Python floats.

Written from the papers' equations and the published conventions; shares no code with the package. Gradients are those
of one call: the caller's upstream gradient is 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from reference import step


class Entry(NamedTuple):
    """A positive."""

    index: int
    false: dict[int, float]
    """``H(x_ij)`` of every negative j."""
    above: dict[int, float]
    """``H(x_ik)`` of every positive k, itself included."""

    @property
    def num_false(self) -> float:
        return math.fsum(self.false.values())

    @property
    def rank_of_positives(self) -> float:
        """1 for itself, H for the others."""
        return 1 + math.fsum(h for k, h in self.above.items() if k != self.index)

    @property
    def rank(self) -> float:
        return self.rank_of_positives + self.num_false


def entries(logits: list[float], positives: list[int], negatives: list[int], delta: float) -> list[Entry]:
    return [
        Entry(
            i,
            {j: step(logits[j] - logits[i], delta) for j in negatives},
            {k: step(logits[k] - logits[i], delta) for k in positives},
        )
        for i in positives
    ]


def loop_interpolated_ap(logits: list[float], targets: list[float], delta: float) -> tuple[float, list[float]]:
    """Interpolated AP Loss and its gradient: precision at a recall is the best at this or a higher recall."""
    pos, neg = [i for i, t in enumerate(targets) if t == 1], [j for j, t in enumerate(targets) if t == 0]
    gradient = [0.0] * len(logits)
    found = entries(logits, pos, neg, delta)
    precision = {e.index: e.rank_of_positives / e.rank for e in found}
    loss = 0.0
    for e in found:
        # A higher recall keeps more positives: those that are at most as high.
        error = 1 - max(precision[k] for k in pos if logits[k] <= logits[e.index])
        loss += error / len(pos)
        gradient[e.index] -= error / len(pos)
        for j, h in e.false.items():
            if e.num_false > 0:
                gradient[j] += error * h / e.num_false / len(pos)
    return loss, gradient


def loop_alrp_parts(
    logits: list[float], targets: list[float], box_errors: list[float], delta: float, eps: float
) -> tuple[float, list[float], list[float]]:
    """Classification part of aLRP Loss, the ranks of the positives, and the gradient of the logits."""
    pos, neg = [i for i, t in enumerate(targets) if t == 1], [j for j, t in enumerate(targets) if t == 0]
    gradient = [0.0] * len(logits)
    error_of = dict(zip(pos, box_errors, strict=True))
    found = entries(logits, pos, neg, delta)
    for e in found:
        if e.num_false > eps:
            boxes = math.fsum(h * error_of[k] for k, h in e.above.items() if k != e.index)
            whole = (boxes + e.num_false) / e.rank / len(pos)
            gradient[e.index] -= whole
            for j, h in e.false.items():
                gradient[j] += whole * h / e.num_false
    loss = math.fsum(e.num_false / e.rank for e in found) / max(len(pos), 1)
    return loss, [e.rank for e in found], gradient


def loop_rank_sort(
    logits: list[float], targets: list[float], delta: float, eps: float
) -> tuple[float, float, list[float]]:
    """Ranking error, sorting error and the gradient of their sum."""
    pos, neg = [i for i, t in enumerate(targets) if t > 0], [j for j, t in enumerate(targets) if t == 0]
    gradient = [0.0] * len(logits)
    ranking = sorting = 0.0
    for e in entries(logits, pos, neg, delta):
        i, t = e.index, targets
        rank_pos = math.fsum(e.above.values())
        error = e.num_false / (rank_pos + e.num_false)
        ranking += error / len(pos)
        if e.num_false > eps:
            gradient[i] -= error / len(pos)
            for j, h in e.false.items():
                gradient[j] += error * h / e.num_false / len(pos)
        better = {k: h for k, h in e.above.items() if t[k] >= t[i]}
        worse = {k: h for k, h in e.above.items() if t[k] < t[i]}
        current = math.fsum(h * (1 - t[k]) for k, h in e.above.items()) / rank_pos
        target = math.fsum(h * (1 - t[k]) for k, h in better.items()) / math.fsum(better.values())
        sorting += (current - target) / len(pos)
        missorted = math.fsum(worse.values())
        if missorted > eps:
            gradient[i] -= (current - target) / len(pos)
            for k, h in worse.items():
                gradient[k] += (current - target) * h / missorted / len(pos)
    return ranking, sorting, gradient
