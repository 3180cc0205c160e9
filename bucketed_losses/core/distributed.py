"""What processes tell each other to rank their logits together: O(P) numbers, nothing of O(N).

FP(i) and the sizes and means of buckets are sums over negatives. So the positives of all processes are gathered, each
process buckets its own negatives, and one all-reduce of the buckets' statistics gives every process the loss of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = Any  # a PyTorch that is built without distributed support has none

Group: TypeAlias = 'ProcessGroup | str | None'
"""'local', 'world', a process group, or None for 'world'; see :func:`resolve`."""


def resolve(group: Group) -> ProcessGroup | None:
    """The process group that a call ranks in, or None if it ranks the logits of this process alone.

    Args:
        group: 'local' for this process alone. 'world' for all processes; None means the same, as everywhere in
            ``torch.distributed``, whose ``group.WORLD`` is None before ``init_process_group``. If no processes are
            connected, both mean this process alone. Or a process group.

    Raises:
        ValueError: ``group`` is another string, or a group that this process does not belong to.
        TypeError: ``group`` is something else.
    """
    if isinstance(group, str) and group not in ('local', 'world'):
        raise ValueError(f"group must be 'local', 'world' or a torch.distributed.ProcessGroup, got {group!r}")
    if group is not None and not isinstance(group, str):
        if dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError('this process is not a member of the group; call the loss on members only')
        if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
            raise TypeError(f"group must be 'local', 'world' or a torch.distributed.ProcessGroup, got {group!r}")
        return group
    if group == 'local':
        return None
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


class GroupReference:
    """Holds a group in a module that may be copied and saved: connections between processes cannot be.

    A copy refers to the same group. A saved group of all processes is 'world' after loading. Another saved process
    group cannot be found again by the process that loads it: the module must be given a group before its next call.
    """

    def __init__(self, group: Group) -> None:
        if group is not _LOST:
            resolve(group)
        self._group = group

    @property
    def group(self) -> Group:
        """The group, as it was given.

        Raises:
            RuntimeError: It was lost when the module was saved.
        """
        if self._group is _LOST:
            raise RuntimeError('the process group of this loss was not saved with it; set its attribute `group` again')
        return self._group

    def __copy__(self) -> GroupReference:
        return self

    def __deepcopy__(self, memo: dict) -> GroupReference:
        return self

    def __reduce__(self) -> tuple:
        if self._group is None or isinstance(self._group, str):
            return GroupReference, (self._group,)
        everyone = self._group is resolve('world')
        return (GroupReference, ('world',)) if everyone else (_lost_group, ())


_LOST: Any = object()


def _lost_group() -> GroupReference:
    return GroupReference(_LOST)


class GatheredPositives(NamedTuple):
    """The positives of all processes: those of process 0 first, then those of process 1, and so on."""

    logits: Tensor
    """``(P,)``."""
    values: Tensor
    """``(P,)``, what each process passed together with its logits."""
    start: int
    """Index of the first positive of this process."""
    nonfinite: Tensor
    """Sum of the scalars of all processes."""


def num_processes(group: ProcessGroup | None) -> int:
    """1 without a group."""
    return 1 if group is None else dist.get_world_size(group)


def gather_positives(
    logits: Tensor, values: Tensor, nonfinite: Tensor, group: ProcessGroup | None
) -> GatheredPositives:
    """Gather the positives of all processes, in two collectives; in one if no process has a positive.

    Synchronises with the host once, to learn how many positives the others have. Without a group it does nothing.

    Args:
        logits: ``(p,)``, of any floating-point dtype; p may differ between processes.
        values: ``(p,)``, for example the IoUs.
        nonfinite: A scalar: 0, or NaN if the loss must be NaN.
        group: The processes.
    """
    if group is None:
        return GatheredPositives(logits, values, 0, nonfinite)
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    # float64 holds every count and every logit, so processes with different dtypes agree on it.
    count = torch.full_like(nonfinite, len(logits), dtype=torch.float64)
    summaries = _all_gather(torch.stack([count, nonfinite.double()]), size, group)
    counts = [int(count) for count in summaries.select(1, 0).tolist()]
    nonfinite = summaries.select(1, 1).sum().to(nonfinite.dtype)
    if not any(counts):
        return GatheredPositives(logits, values, 0, nonfinite)
    # A collective takes tensors of one length.
    own = pad(torch.stack([logits.double(), values.double()]), (0, max(counts) - len(logits)))
    rows = _all_gather(own, size, group).unbind()
    logits, values = torch.cat([row.narrow(1, 0, count) for row, count in zip(rows, counts, strict=True)], 1).unbind()
    return GatheredPositives(logits, values, sum(counts[:rank]), nonfinite)


def _all_gather(own: Tensor, size: int, group: ProcessGroup) -> Tensor:
    gathered = own.new_empty(size, *own.shape)
    dist.all_gather(list(gathered.unbind()), own, group)
    return gathered


def add_up(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over processes, in place; one collective, none without a group."""
    if group is not None:
        dist.all_reduce(values, group=group)
    return values
