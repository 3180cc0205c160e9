"""Random numbers that depend only on the epoch, so that a resumed run draws the same as an uninterrupted run."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed

from .sampler_seed import SamplerSeed


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, numpy and torch with the run's seed and the epoch before every training epoch.

    A run that is resumed at an epoch then draws the same augmentations as a run that was never stopped. Without this
    hook the resumed process starts the random sequence from the beginning. MMEngine seeds worker processes itself.
    If the config fixes no seed, the resumed run has the seed of its checkpoint, for the order of the images, too.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._sampler_seed = SamplerSeed()

    def before_run(self, runner: Runner) -> None:
        self._sampler_seed.before_run(runner)

    def before_train(self, runner: Runner) -> None:
        self._sampler_seed.before_train(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        # The seed of a run is at most 2**31; a large stride keeps the streams of runs with neighbouring seeds apart.
        set_random_seed((runner.seed + 1_000_003 * (runner.epoch + 1)) % 2**32, diff_rank_seed=True)
