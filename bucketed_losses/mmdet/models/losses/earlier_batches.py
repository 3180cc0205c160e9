"""The memory of a ranking loss: earlier batches, which are ranked against and never moved."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ....functional import SparseTargets


class Batch(NamedTuple):
    """What is ranked in one call of a loss.

    Attributes:
        logits: ``(n,)``.
        targets: The positives among them, with a mask ``(n,)`` of ignored entries.
    """

    logits: Tensor
    targets: SparseTargets

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; a batch that is there is not copied."""
        positives, ious, ignored = self.targets
        ignored = None if ignored is None else ignored.to(device)
        return Batch(self.logits.to(device), SparseTargets(positives.to(device), ious.to(device), ignored))


class EarlierBatches:
    """A queue of the last batches of each series of calls; what the loss of a step is ranked against.

    Batches are kept as they were, without gradients. A batch with an entry that is not finite is not kept, so that only
    its own loss is NaN; to see this, the host waits for an accelerator once in a call. The queue is not part of a
    checkpoint: a run that is resumed begins with an empty one.

    Args:
        most: The number of batches to keep, 1 or more.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.series: dict[str, deque[Batch]] = {}

    def forget(self) -> None:
        """Empty the queues of all series."""
        self.series.clear()

    def joined(self, logits: Tensor, targets: Tensor | SparseTargets, series: str) -> tuple[Batch, int]:
        """The entries of a batch followed by those of earlier ones, and the number of batches. The batch is kept.

        Args:
            logits: Any shape. Earlier ones that are on another device are moved to theirs.
            targets: Of the shape of ``logits``, or sparse.
            series: The calls that remember each other.
        """
        earlier = self.series.setdefault(series, deque(maxlen=self.most))
        for index, kept in enumerate(earlier):
            earlier[index] = kept.to(logits.device)
        batch = _flat(logits, targets)
        batches = [batch, *earlier]
        if _is_finite(batch):
            earlier.append(Batch(batch.logits.detach().clone(), batch.targets))
        return _join(batches), len(batches)


def _flat(logits: Tensor, targets: Tensor | SparseTargets) -> Batch:
    if isinstance(targets, Tensor):
        dense = targets.detach().flatten()
        positives = (~(dense <= 0)).nonzero().squeeze(1)  # with those whose IoU is NaN
        targets = SparseTargets(positives, dense.index_select(0, positives), dense < 0)
    if targets.ignored is None:
        ignored = torch.zeros(logits.numel(), dtype=torch.bool, device=logits.device)
    else:
        ignored = targets.ignored.flatten()
    return Batch(logits.flatten(), SparseTargets(targets.positives, targets.ious.detach(), ignored))


def _is_finite(batch: Batch) -> bool:
    ignored = batch.targets.ignored
    finite = batch.logits.isfinite() if ignored is None else batch.logits.isfinite() | ignored
    return bool(finite.all() & batch.targets.ious.isfinite().all())


def _join(batches: Sequence[Batch]) -> Batch:
    positives = []
    begin = 0
    for logits, targets in batches:
        positives.append(targets.positives + begin)
        begin += len(logits)
    ious = torch.cat([targets.ious for _, targets in batches])
    ignored = torch.cat([targets.ignored for _, targets in batches if targets.ignored is not None])
    return Batch(torch.cat([logits for logits, _ in batches]), SparseTargets(torch.cat(positives), ious, ignored))


def with_gradient_times(value: Tensor, factor: int) -> Tensor:
    """``value`` itself, whose gradient is multiplied by a factor."""
    fixed = value.detach()
    return fixed + factor * (value - fixed)
