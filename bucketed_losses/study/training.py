"""Train one config, or resume its training."""

from __future__ import annotations

from mmengine.config import Config

# Importing the plug-in registers its modules, also for configs that do not name it.
from bucketed_losses.mmdet.engine import LastValidationHook, newest_complete_checkpoint
from bucketed_losses.mmdet.engine.runner import refuse_unusable_data, runner_from

from .weights_hook import WeightsHook  # noqa: F401  # registers it


def train(config: str, work_dir: str, launcher: str = 'none') -> None:
    """Train; if the work directory has a complete checkpoint, continue from it.

    Args:
        config: File of the config.
        work_dir: Folder for logs and checkpoints.
        launcher: ``pytorch`` in a process of torchrun, else ``none``.

    Raises:
        UserError: a name in the config is not registered, or data are missing.
    """
    cfg = Config.fromfile(config)
    cfg.launcher = launcher
    cfg.work_dir = work_dir
    newest = newest_complete_checkpoint(work_dir)
    if newest:
        cfg.resume = True
        cfg.load_from = newest
    runner = runner_from(cfg, ('train_dataloader', 'val_dataloader'))
    runner.register_hook(LastValidationHook())
    refuse_unusable_data(runner, ['train', 'val']).train()
