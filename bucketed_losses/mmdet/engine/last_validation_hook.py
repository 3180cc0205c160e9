"""Validates a run that was stopped between its last epoch and the validation of that epoch."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class LastValidationHook(Hook):
    """If a resumed run has nothing left to train, validate it.

    A run that is killed during its last validation has saved its last checkpoint already. MMEngine resumes from it,
    trains nothing and ends, so that the run would never have a result. ``tools/train.py --resume`` and
    ``bucketed-losses compare`` use this hook.
    """

    def before_train(self, runner: Runner) -> None:
        self._start = runner.iter

    def after_train(self, runner: Runner) -> None:
        if runner.iter == self._start > 0 and runner.val_loop is not None:
            runner.logger.info('All of this run is trained; only its last validation is repeated.')
            runner.val_loop.run()
