"""Random numbers that depend on the epoch alone, so that a resumed run sees what an uninterrupted one would."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed Python, numpy and torch with the run's seed and the epoch before every training epoch.

    A run resumed at an epoch then draws the same augmentations as one that was never stopped. Without it the resumed
    process would start the random sequence again. Worker processes are seeded by MMEngine itself.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        # The seed of a run is at most 2**31; a large stride keeps the streams of runs with neighbouring seeds apart.
        set_random_seed((runner.seed + 1_000_003 * (runner.epoch + 1)) % 2**32, diff_rank_seed=True)
