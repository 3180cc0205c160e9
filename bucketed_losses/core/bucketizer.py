"""Finds the bucket of each logit."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import devices

CELLS_PER_EDGE = 16
"""Cells of the table for each edge: more of them contain fewer edges each, but the table leaves the cache sooner."""

MAX_CELLS = 2**19
"""Most cells of the table."""

MOST_COMPARED = 8
"""A value is compared with the edges of its cell one by one if no cell contains more edges than this."""


class Bucketizer:
    """``torch.searchsorted(edges, values, right=True)``, faster on a CPU: how many edges are at or below each value.

    A binary search among thousands of edges mispredicts nearly every branch. A table is faster: it divides the range of
    the edges into equal cells and stores for each cell how many edges lie in lower cells. A value in a cell without
    edges is done after one look into the table; the others are compared with the edges of their cell. The cell of a
    value is computed with rounding, but rounding never changes the order of two numbers, so the result is exact.

    Args:
        edges: ``(B,)``, ascending, B >= 1.
        num_values: How many values will be looked up. A table that is larger does not pay, and is not built.
    """

    def __init__(self, edges: Tensor, num_values: int) -> None:
        self.edges = edges
        self.table: Tensor | None = None
        num_cells = min(CELLS_PER_EDGE * len(edges), MAX_CELLS, num_values)
        if not devices.on_cpu(edges) or num_cells < len(edges):
            return
        self.lowest = edges[0]
        span = (edges[-1] - self.lowest).abs()  # not -0
        self.cells_per_logit = num_cells / span
        if not math.isfinite(span):
            return
        cells = self._cells(edges, num_cells).long()
        edges_in_cell = torch.zeros(num_cells, dtype=torch.int32, device=edges.device)
        edges_in_cell.index_add_(0, cells, torch.ones_like(cells, dtype=torch.int32))
        edges_below = edges_in_cell.cumsum(0, dtype=torch.int32).sub_(edges_in_cell)
        # A negative number -1 - n marks a cell that contains edges.
        self.table = edges_below.index_copy_(0, cells, -1 - edges_below.index_select(0, cells))
        self.most_in_cell = int(edges_in_cell.max())
        self.padded_edges = pad(edges, (0, 1), value=torch.nan)  # no value is at or above the last one

    def _cells(self, values: Tensor, num_cells: int) -> Tensor:
        scaled = (values - self.lowest).mul_(self.cells_per_logit).clamp_(0, num_cells - 1)
        return scaled.nan_to_num_(0).to(torch.int32)  # 0 times infinity, if all edges are equal

    def __call__(self, values: Tensor) -> Tensor:
        """``(n,)`` int32 for ``values (n,)`` of the edges' dtype."""
        if self.table is None:
            return torch.searchsorted(self.edges, values, right=True, out_int32=True)
        found = self.table.index_select(0, self._cells(values, len(self.table)))
        undecided = (found < 0).nonzero().squeeze(1)
        rest = values.index_select(0, undecided)
        if self.most_in_cell > MOST_COMPARED:
            decided = torch.searchsorted(self.edges, rest, right=True, out_int32=True)
        else:
            decided = -1 - found.index_select(0, undecided)
            for _ in range(self.most_in_cell):
                decided += rest >= self.padded_edges.index_select(0, decided)
        return found.index_copy_(0, undecided, decided)
