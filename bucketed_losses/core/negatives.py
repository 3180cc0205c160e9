"""The negatives: which of them matter, how many rank above each positive (FP), and what each of them gets back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import devices
from .buckets import Buckets, bucket_negatives, clamp_between, edges_around
from .devices import round_up
from .distributed import ProcessGroup
from .positives import RankedPositives
from .step_sums import Band, StepSums, band_above, band_below, sums_above, sums_below


class Negatives(NamedTuple):
    """The negatives that can rank above a positive, piece by piece."""

    indices: list[Tensor | None]
    """``(n,)`` int64 into the piece; None if ``logits`` has an entry for every entry of the piece."""
    logits: list[Tensor]
    """``(n,)``."""


def relevant_negatives(logits: Tensor, targets: Tensor, floor: Tensor) -> Negatives:
    """The negatives that are not below the ``floor`` of the positives; the others are 0 steps above every positive.

    Args:
        logits: ``(n,)`` float32 or float64.
        targets: ``(n,)``; 0 for a negative.
        floor: Scalar float64, :attr:`RankedPositives.floor`.
    """
    floor = round_up(floor, logits.dtype)
    pieces = [_relevant(x, t, floor) for x, t in devices.split(logits, targets)]
    return Negatives([indices for indices, _ in pieces], [values for _, values in pieces])


def _relevant(logits: Tensor, targets: Tensor, floor: Tensor) -> tuple[Tensor | None, Tensor]:
    """If most entries of a piece are relevant, return all of them and no indices; on a CPU this is faster.

    The irrelevant ones are then moved below the floor, into the bucket that takes no part.
    """
    relevant = (targets == 0) & (logits >= floor)
    if devices.on_cpu(logits) and 2 * relevant.count_nonzero() > len(logits):
        # Next to a floor of 0 lie subnormal numbers, which `torch.set_flush_denormal` makes equal to it. Below the
        # lowest finite floor lies -inf, which an exact gradient would multiply by 0.
        below = torch.minimum(floor - 1, torch.nextafter(floor, torch.full_like(floor, -torch.inf)))
        if below.isfinite():
            return None, torch.where(relevant, logits, below)
    # Host synchronisation 2: how many negatives can matter. Late in training few of them do.
    indices = relevant.nonzero().squeeze(1)
    return indices, logits.index_select(0, indices)


class CountedNegatives(NamedTuple):
    """Negatives in buckets, seen from the positives."""

    false_positives: Tensor
    """FP(i) (Eq. 1, 13) for each positive in ascending order of logits, ``(P,)`` float64."""
    positives: Tensor
    """The logits of the positives, ascending, relative to their origin; ``(P,)`` float64."""
    places: Tensor
    """Where each bucket is compared with the positives, relative to the same origin: its lower edge if a sum of steps
    is linear inside it, else its mean; ``(B,)`` float64."""
    band: Band
    """For each place, the positives for which H is fractional."""
    floor: Tensor
    """The scalar below and at which H is 0 for every positive, relative to the same origin."""
    buckets: Buckets
    lower_edges: Tensor | None
    """The lower edges of exact buckets with ``delta > 0``, in which a sum of steps is linear; ``(B,)`` float64."""
    delta: float

    def share(self, weights: Tensor, negatives: Sequence[Tensor]) -> list[Tensor]:
        """``sum_i weights_i H(x_ij)`` for every negative j, in pieces ``(n,)``; never below 0.

        FP(i) sums the same steps over j. In the published losses, all members of a bucket get the value at its mean.

        Args:
            weights: ``(P,)`` float64, not below 0, in ascending order of the positives' logits.
            negatives: The pieces that were counted; the result may overwrite them.
        """
        values, slopes = sums_below(self.positives, weights, self.places, self.band, self.delta)
        if self.delta > 0:
            # This holds in exact arithmetic, and rounding must not change it: nothing is below 0, and a bucket that
            # lies below the floor or begins there has the value 0. For delta = 0, sums of weights are exact in this.
            values, slopes = torch.where(self.places > self.floor, values.clamp_(min=0), 0), slopes.clamp_(min=0)
        return self.buckets.spread(negatives, StepSums(values, slopes), self.lower_edges)


def count_negatives(
    positives: RankedPositives,
    negatives: Sequence[Tensor],
    delta: float,
    exact: bool,
    group: ProcessGroup | None = None,
) -> CountedNegatives:
    """How many negatives rank above each positive; never synchronises with the host.

    Args:
        positives: From :func:`rank_positives`.
        negatives: Logits in pieces ``(n,)``. Those below the floor of the positives may be left out: they change no bit
            of the result.
        delta: Half-width of H.
        exact: The edges of the buckets are the positives +- delta instead of the positives.
        group: Processes with the same positives, and negatives of their own.
    """
    s = positives.logits - positives.origin
    # Every H is 1 here, so a mean above may move here. An outlier then takes no digits from the sums of the others.
    highest = positives.logits.select(0, -1) + 2 * delta
    # The lowest edge is the floor in both cases, so bucket 0 holds what takes no part. The published code, too, drops
    # negatives below the floor before it takes means.
    if exact and delta > 0:  # for delta = 0, both kinds of edges are the same
        edges, band, band_of_positives = edges_around(positives.logits, delta)
        buckets = bucket_negatives(negatives, edges, group)
        means = torch.minimum(buckets.means, highest) - positives.origin
        lower_edges = torch.cat([edges[:1], edges])  # the lowest bucket has none, and no share
        places = lower_edges - positives.origin
    else:
        edges = torch.cat([positives.floor.unsqueeze(0), positives.logits])
        buckets = bucket_negatives(negatives, edges, group)
        means = places = torch.minimum(clamp_between(buckets.means, edges), highest) - positives.origin
        lower_edges = None
        band, band_of_positives = band_above(means, s, delta), band_below(s, means, delta)
    false_positives = sums_above(means, buckets.sizes, s, band, delta).values.clamp(min=0)
    floor = positives.floor - positives.origin
    return CountedNegatives(false_positives, s, places, band_of_positives, floor, buckets, lower_edges, delta)
