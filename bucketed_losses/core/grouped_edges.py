"""The edges of many rankings in one row: group by group, each group's edges ascending behind an opening.

An entry belongs to the bucket above the last edge of its own group that it reaches, or above the opening of its group::

    group             0              1          2
    row           (  1.0  3.0  |   2.0   |           )       an opening before each group, three edges
    buckets       0   1    2       3  4      5               2, 4 and 5 are the closing ones: they take no part

Edges and entries of all groups are compared as integers, ``group * stride + place among all edges``, so that no logit
is rounded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class GroupedEdges(NamedTuple):
    """E edges of G groups, in E + G buckets."""

    sorted_edges: Tensor
    """All edges in ascending order, whatever their group; ``(E,)`` float64."""
    keys: Tensor
    """The integers of openings and edges, ascending; ``(E + G,)`` int64."""
    places: Tensor
    """The place of each edge in the row, ``(E,)`` int64."""
    openings: Tensor
    """The place of each opening in the row, ``(G,)`` int64."""
    closings: Tensor
    """The last bucket of each group, ``(G,)`` int64."""
    right: bool
    """Whether an entry reaches an edge that it equals."""

    def groups(self) -> Tensor:
        """The group of each bucket, ``(E + G,)`` int64."""
        return self.keys.div(_stride(self.sorted_edges), rounding_mode='floor')

    def find(self, values: Tensor, groups: Tensor) -> Tensor:
        """The buckets ``(n,)`` int64 of ``values (n,)`` float64 in ``groups (n,)`` int64."""
        keys = torch.searchsorted(self.sorted_edges, values, right=self.right)
        keys.add_(groups, alpha=_stride(self.sorted_edges)).add_(1)
        return torch.searchsorted(self.keys, keys).sub_(1)

    def sums_before(self, sums: Tensor, edge_groups: Tensor) -> Tensor:
        """What the buckets between the opening of its group and each edge have together, ``(..., E)``.

        Args:
            sums: ``(..., E + G)``; overwritten in the closing buckets.
            edge_groups: The group of each edge, ``(E,)``.
        """
        sums.index_fill_(-1, self.closings, 0)  # what takes no part would take digits from the groups behind
        before = sums.cumsum(-1) - sums
        return before.index_select(-1, self.places) - before.index_select(
            -1, self.openings.index_select(0, edge_groups)
        )

    def sums_behind(self, values: Tensor) -> Tensor:
        """What the edges of its group behind each bucket have together, ``(m, E + G)``; 0 in the closing buckets.

        Args:
            values: Of the edges, ``(m, E)``.
        """
        row = values.new_zeros(len(values), len(self.keys)).index_copy_(1, self.places, values).cumsum(1)
        return row.index_select(1, self.closings.index_select(0, self.groups())) - row


def group_edges(edges: Tensor, groups: Tensor, num_groups: int, right: bool) -> GroupedEdges:
    """Arrange ``edges (E,)`` of ``groups (E,)``."""
    sorted_edges = edges.sort().values
    stride = _stride(sorted_edges)
    keys = torch.searchsorted(sorted_edges, edges).add_(groups, alpha=stride).add_(1)
    openings = torch.arange(0, num_groups * stride, stride, device=edges.device)
    keys, order = torch.cat([keys, openings]).sort()
    places = order.argsort()
    openings = places[len(edges) :]
    closings = torch.cat([openings[1:], openings.new_full((1,), len(keys))]) - 1
    return GroupedEdges(sorted_edges, keys, places[: len(edges)], openings, closings, right)


def _stride(edges: Tensor) -> int:
    return len(edges) + 2
