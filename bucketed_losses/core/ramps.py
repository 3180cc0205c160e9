"""Sums of smoothed steps as an accelerator takes them: in few operations, whatever the number of positives.

With ``z = -logit``, the smoothed step (Eq. 2) is a difference of two ramps::

    2 delta H(x_ij) = max(z_i + delta - z_j, 0) - max(z_i - delta - z_j, 0)

A sum of ramps at a place q needs how many z_j lie below q (their mass) and the sum of them (their moment)::

    sum_j max(q - z_j, 0) = q mass(q) - moment(q)

An example with delta = 0.5, one positive at z = 1 and negatives at z = 0, 1.25 and 3::

    q = 1.5:  mass 2, moment 1.25,  2 * 1.5 - 1.25 = 1.75
    q = 0.5:  mass 1, moment 0,     1 * 0.5 - 0    = 0.5      the difference is 1.25 = H(1) + H(-0.25) = 1 + 0.25

Mass and moment are prefix sums, which start at the highest logit: the few entries above a well-ranked positive are not
the difference of two huge numbers. The factor ``2 delta`` is left out everywhere, because the losses are ratios.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Kinks(NamedTuple):
    """Where the ramps of the positives begin: at ``z - delta`` and ``z + delta``."""

    around: Tensor
    """``(2, P)`` float64, each row ascending. The last element is the floor."""
    edges: Tensor
    """The same in ascending order, ``(2 P,)``."""
    order: Tensor
    """The places of ``edges`` in ``around``, ``(2 P,)`` int64."""


def find_kinks(positives: Tensor, signs: Tensor, delta: float) -> Kinks:
    """The kinks of ``(P,)`` positives ``z``, in ascending order; ``signs`` are -1 and 1, ``(2, 1)``."""
    around = torch.add(positives, signs, alpha=delta)
    return Kinks(around, *around.view(-1).sort())


def steps_between(ramps: Tensor) -> Tensor:
    """Sums of steps ``(..., P)``, at least 0, from negated sums of ramps at the kinks ``(..., 2, P)``."""
    return (ramps.select(-2, 0) - ramps.select(-2, 1)).clamp_(min=0)


def negated_ramps(prefix: Tensor, at: Tensor) -> Tensor:
    """``moment - mass * at`` for prefix sums ``(2, ...)`` of mass and moment: the sum of ramps, negated."""
    return torch.addcmul(prefix[1], prefix[0], at, value=-1)


def ramps_of_kinks(kinks: Kinks, weights: Tensor, signs: Tensor) -> Tensor:
    """Mass and moment of the positives' ramps beyond each kink, ``(2, 2 P)``: ``sum_i weights_i H(x_ij)`` is linear in
    ``z_j`` between two kinks, and 0 beyond the last one.

    Args:
        kinks: From :func:`find_kinks`.
        weights: ``(P,)``.
        signs: -1 and 1, ``(2, 1)``.
    """
    signed = weights * signs
    prefix = torch.stack([signed, signed * kinks.around]).view(2, -1).index_select(1, kinks.order).cumsum(1)
    return prefix.narrow(1, prefix.shape[1] - 1, 1) - prefix  # exactly 0 at the last kink
