"""A training loop that can continue in the middle of an epoch."""

from __future__ import annotations

from typing import Any

from mmengine.runner import EpochBasedTrainLoop


class PassesOverBatches(EpochBasedTrainLoop):
    """Loads the first batches of an epoch and does not train on them.

    Random augmentations then continue where the run was stopped, and batches keep their number within the epoch, which
    logs and hooks use.

    Attributes:
        passed_over: Number of batches that the next epoch skips; 0 after that epoch.
    """

    passed_over = 0

    def run_iter(self, idx: int, data_batch: Any) -> None:
        if idx >= self.passed_over:
            super().run_iter(idx, data_batch)

    def run_epoch(self) -> None:
        super().run_epoch()
        self.passed_over = 0


def resumable(loop: EpochBasedTrainLoop) -> Any:
    """The loop with :class:`PassesOverBatches`: a new object that shares all attributes with the given loop.

    The runner builds its loop from the user's config, which names MMEngine's class or a class of the user.
    """
    if isinstance(loop, PassesOverBatches):
        return loop
    cls: Any = type(f'Resumable{type(loop).__name__}', (PassesOverBatches, type(loop)), {})
    new = object.__new__(cls)
    vars(new).update(vars(loop))
    return new
