"""The seed of the sampler in a run that is resumed without a fixed seed."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader


class SamplerSeed:
    """Gives a resumed run the order of images of the run that it continues.

    Without ``randomness.seed``, MMEngine draws a seed, builds the sampler with it, and takes the seed of the checkpoint
    afterwards. The sampler then shuffles an epoch that was begun in another order: images would be seen twice, and
    others not at all. A seed that the config gives to the sampler is kept.
    """

    def __init__(self) -> None:
        self._drawn: int | None = None

    def before_run(self, runner: Runner) -> None:
        """Remember the seed that the sampler was built with; call it before the checkpoint is loaded."""
        self._drawn = runner.seed

    def before_train(self, runner: Runner) -> None:
        """Give the sampler the seed of the checkpoint."""
        loader = runner.train_loop.dataloader
        if not isinstance(loader, DataLoader) or runner.seed == self._drawn:
            return
        sampler: Any = getattr(loader.batch_sampler, 'sampler', loader.sampler)
        if getattr(sampler, 'seed', None) != self._drawn:
            return
        if loader.num_workers and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            print_log(
                'The workers of an iteration-based run have already loaded images in a new order, so some images of '
                'this epoch are seen twice, and others not at all. Set randomness=dict(seed=0), or another seed, to '
                'resume with the same order.',
                'current',
                logging.WARNING,
            )
        sampler.seed = runner.seed
