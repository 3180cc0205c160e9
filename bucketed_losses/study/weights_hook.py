"""Saves the weights of a run for measurements on them."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class WeightsHook(CheckpointHook):
    """``CheckpointHook`` for files that no run resumes from: it leaves ``last_checkpoint`` as it is."""

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        pointer = Path(runner.work_dir, 'last_checkpoint')
        before = pointer.read_text() if pointer.is_file() else None
        super()._save_checkpoint_with_step(runner, step, meta)
        if not is_main_process():
            return
        if before is None:
            pointer.unlink()
        else:
            pointer.write_text(before)
