"""aLRP Loss and DR Loss by loops over their definitions, in Python floats.

Nothing here shares code with the package.
"""

from __future__ import annotations

import math

from reference import step


def loop_alrp(logits, targets, errors, delta):
    """Values, and the gradients of the classification part for logits and of the other for box errors, by loops."""
    pos = [i for i, t in enumerate(targets) if t > 0]
    neg = [j for j, t in enumerate(targets) if t == 0]
    e = dict(zip(pos, errors, strict=True))
    grad, error_grad = [0.0] * len(logits), dict.fromkeys(pos, 0.0)
    classification = localization = 0.0
    for i in pos:
        others = {k: step(logits[k] - logits[i], delta) for k in pos if k != i}
        false = {j: step(logits[j] - logits[i], delta) for j in neg}
        num_false = math.fsum(false.values())
        rank = 1 + math.fsum(others.values()) + num_false
        classification += num_false / rank / len(pos)
        for k in pos:
            if logits[k] >= logits[i]:
                localization += e[k] / rank / len(pos)
                error_grad[k] += 1 / rank / len(pos)
        if num_false > 1e-5:
            g = -(math.fsum(others[k] * e[k] for k in others) + num_false) / rank / len(pos)
            grad[i] += g
            for j in neg:
                grad[j] += false[j] * -g / num_false
    return classification, localization, grad, [error_grad[i] for i in pos]


MINUS = 0.1 / math.log(3.5)


def loop_dr(logits, targets, margin=0.5, plus=1.0, minus=MINUS, smoothness=6.0, scale=4.0):
    def expected(scores, temperature):
        weights = [math.exp(p / temperature) for p in scores]
        return sum(w * p for w, p in zip(weights, scores, strict=True)) / sum(weights)

    score = [1 / (1 + math.exp(-x)) for x in logits]
    pos = [p for p, t in zip(score, targets, strict=True) if t > 0]
    neg = [p for p, t in zip(score, targets, strict=True) if t == 0]
    high = expected(neg, minus) if neg else 0.0
    low = expected(pos, -plus) if pos else 1.0
    return scale * math.log1p(math.exp(smoothness * (high - low + margin))) / smoothness
