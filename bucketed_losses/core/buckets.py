"""Buckets of negatives (Eq. 12): their edges, sizes and means, and giving each negative the share of its bucket.

The published losses bucket the negatives between the positives. The exact losses bucket them between the positives
+- delta, where H has its kinks: inside such a bucket every ``H(. - s_i)`` is linear, so a sum over the bucket equals
its size times H at its mean, and what a negative gets is linear in its logit.

The negatives are read twice, in their own precision; everything else is float64, of the size of the positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .bucketizer import Bucketizer
from .devices import round_up
from .distributed import ProcessGroup, add_up
from .step_sums import Band, StepSums


class Buckets(NamedTuple):
    """Negatives grouped between edges."""

    assignments: list[Tensor]
    """For each piece of the negatives, the buckets of its members; ``(n,)`` int32."""
    sizes: Tensor
    """``(B,)`` float64."""
    means: Tensor
    """``(B,)`` float64; 0 for an empty bucket."""

    def spread(self, negatives: Sequence[Tensor], sums: StepSums, lower_edges: Tensor | None) -> list[Tensor]:
        """What each negative gets of the ``sums``, in pieces ``(n,)``.

        Args:
            negatives: The pieces that were bucketed; the result may overwrite them.
            sums: Values and slopes of each bucket, ``(B,)`` and not below 0: at its lower edge if there are
                ``lower_edges``, else at its mean.
            lower_edges: ``(B,)`` float64. Each negative gets the value at its own logit, by the slope of its bucket. If
                None, all members of a bucket get its value (S.22).
        """
        dtype = negatives[0].dtype
        if lower_edges is None:
            values = sums.values.to(dtype)
            return [values.index_select(0, bucket) for bucket in self.assignments]
        # No member lies below the rounded edge, so no distance is negative and no share is.
        origins = round_up(lower_edges, dtype)
        values = (sums.values + sums.slopes * (origins.double() - lower_edges)).to(dtype)
        slopes = sums.slopes.to(dtype)
        return [
            logits.sub_(origins.index_select(0, bucket))
            .mul_(slopes.index_select(0, bucket))
            .add_(values.index_select(0, bucket))
            for logits, bucket in zip(negatives, self.assignments, strict=True)
        ]


def bucket_negatives(negatives: Sequence[Tensor], edges: Tensor, group: ProcessGroup | None = None) -> Buckets:
    """Group negatives by the edges they lie between, without sorting them.

    Negatives below all edges take no part: they are assigned to bucket 0, whose size and mean are set to 0.

    Args:
        negatives: Pieces ``(n,)`` of float32 or float64 logits, at least one piece.
        edges: ``(B - 1,)`` float64, ascending; a negative on an edge belongs to the bucket above the edge.
        group: Processes that share the buckets; all of them pass the same edges. Sizes and means are those of the
            negatives of all processes, assignments those of this process.
    """
    bucketize = Bucketizer(round_up(edges, negatives[0].dtype), sum(map(len, negatives)))
    statistics = torch.zeros(2, len(edges) + 1, dtype=torch.float64, device=edges.device)
    sizes, sums = statistics.unbind()
    assignments = []
    for logits in negatives:
        bucket = bucketize(logits)
        assignments.append(bucket)
        bucket = bucket.long()
        sizes.scatter_add_(0, bucket, sizes.new_ones(1).expand(len(logits)))
        sums.scatter_add_(0, bucket, logits.double())
    statistics.select(1, 0).zero_()
    sizes, sums = add_up(statistics, group).unbind()
    return Buckets(assignments, sizes, sums.div_(sizes.clamp(min=1)))


def edges_around(logits: Tensor, delta: float) -> tuple[Tensor, Band, Band]:
    """The edges of exact buckets, ``logits - delta`` and ``logits + delta``, in ascending order.

    Args:
        logits: ``(P,)`` float64, ascending.
        delta: Half-width of H, above 0.

    Returns:
        The ``(2 P,)`` edges; the band of buckets of each logit; the band of logits of each bucket. A logit enters a
        bucket's band at the edge ``logit - delta`` and leaves it at ``logit + delta``, so both bands follow from the
        places of the edges. The places are counted, because both rows of edges are sorted already.
    """
    num = len(logits)
    enters, leaves = logits - delta, logits + delta
    index = torch.arange(num, device=logits.device)
    enters_at = index + torch.searchsorted(leaves, enters)
    leaves_at = index + torch.searchsorted(enters, leaves, right=True)
    edges = torch.empty(2 * num, dtype=logits.dtype, device=logits.device)
    edges = edges.index_copy(0, enters_at, enters).index_copy(0, leaves_at, leaves)
    is_entry = torch.zeros_like(edges, dtype=torch.int64).index_fill(0, enters_at, 1)
    # Bucket b lies above b edges.
    entered = pad(is_entry.cumsum(0), (1, 0))
    left = torch.arange(2 * num + 1, device=logits.device) - entered
    return edges, Band(enters_at + 1, leaves_at + 1), Band(left, entered)


def clamp_between(means: Tensor, edges: Tensor) -> Tensor:
    """The means ``(B,)`` of buckets, each moved back between its edges ``(B - 1,)`` if rounding has moved it out.

    For ``delta = 0``, H would count a mean outside its bucket on the wrong side. An empty bucket also gets a place
    between its edges, so that the result is ascending.
    """
    below = torch.nextafter(edges, torch.full_like(edges, -torch.inf))
    unbounded = edges.new_full((1,), torch.inf)
    means = torch.minimum(means, torch.cat([below, unbounded]))
    return torch.maximum(means, torch.cat([-unbounded, edges]))
