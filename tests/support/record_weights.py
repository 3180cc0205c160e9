"""A hook for whole runs in tests: every process writes its weights and where it stands when training ends."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RecordWeights(Hook):
    priority = 'LOWEST'

    def after_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state = {'weights': model.state_dict(), 'world': get_world_size(), 'iter': runner.iter}
        torch.save(state, Path(runner.work_dir, f'rank{get_rank()}.pt'))


@HOOKS.register_module()
class Die(Hook):
    """One process raises after an iteration, the others go on."""

    def __init__(self, rank: int, iteration: int) -> None:
        self.rank, self.iteration = rank, iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter == self.iteration and get_rank() == self.rank:
            raise RuntimeError('this process has had enough')


@HOOKS.register_module()
class Spoil(Hook):
    """NaN in a weight before an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.iteration:
            next(runner.model.bbox_head.parameters()).data.fill_(torch.nan)
