"""What processes tell each other to rank their logits together: O(P) numbers, none of it O(N)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = Any  # a PyTorch built without distributed support has none


class GatheredPositives(NamedTuple):
    """The positives of all processes: those of process 0, of process 1 and so on.

    Attributes:
        logits: ``(P,)``.
        labels: ``(P,)``.
        start: Index of the first one of this process.
        poison: The sum of every process's, a scalar.
    """

    logits: Tensor
    labels: Tensor
    start: int
    poison: Tensor


def num_processes(group: ProcessGroup | None) -> int:
    """1 without a group."""
    return 1 if group is None else dist.get_world_size(group)


def gather_positives(logits: Tensor, labels: Tensor, poison: Tensor, group: ProcessGroup | None) -> GatheredPositives:
    """Two collectives, one if no process has a positive; none without a group. One host synchronisation.

    Args:
        logits: ``(p,)``, of any floating-point dtype; processes may differ in p.
        labels: ``(p,)``.
        poison: A scalar of the logits' dtype: 0, or NaN where the loss must be.
        group: The processes.
    """
    if group is None:
        return GatheredPositives(logits, labels, 0, poison)
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    # float64 holds every count and every logit, so that processes agree on it whatever theirs are.
    num = torch.full_like(poison, len(logits), dtype=torch.float64)
    summaries = _all_gather(torch.stack([num, poison.double()]), size, group)
    counts = [int(count) for count in summaries.select(1, 0).tolist()]
    poison = summaries.select(1, 1).sum().to(poison.dtype)
    if not any(counts):
        return GatheredPositives(logits, labels, 0, poison)
    # Collectives take tensors of one length.
    padding = max(counts) - len(logits)
    own = torch.nn.functional.pad(torch.stack([logits.double(), labels.double()]), (0, padding))
    rows = _all_gather(own, size, group).unbind()
    logits, labels = torch.cat([row.narrow(1, 0, count) for row, count in zip(rows, counts, strict=True)], 1).unbind()
    return GatheredPositives(logits, labels, sum(counts[:rank]), poison)


def _all_gather(own: Tensor, size: int, group: ProcessGroup) -> Tensor:
    gathered = own.new_empty(size, *own.shape)
    dist.all_gather(list(gathered.unbind()), own, group)
    return gathered


def add_up(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over processes, in place; one collective, none without a group."""
    if group is not None:
        dist.all_reduce(values, group=group)
    return values
