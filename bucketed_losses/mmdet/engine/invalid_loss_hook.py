"""Stops training at a loss that is infinite or NaN, and reports the loss and the images of the batch."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.engine.hooks import CheckInvalidLossHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class InvalidLossHook(CheckInvalidLossHook):
    """MMDetection's ``CheckInvalidLossHook`` with an error that names the losses and the images of the batch.

    It also prevents checkpoints with weights that are infinite or NaN, so that the newest checkpoint stays usable.

    Args:
        interval: Number of iterations between two checks. Checking every iteration costs nothing, because MMEngine
            reads every loss for its log.

    Raises:
        FloatingPointError: A loss is infinite or NaN while training, or a parameter is when a checkpoint is saved.
    """

    def __init__(self, interval: int = 1) -> None:
        super().__init__(interval)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if not outputs or not self.every_n_train_iters(runner, self.interval):
            return
        if 'loss' in outputs and torch.isfinite(outputs['loss']):  # the sum of all losses; one read suffices
            return
        invalid = {
            name: value[~torch.isfinite(value)][0].item()
            for name, value in outputs.items()
            if 'loss' in name and isinstance(value, torch.Tensor) and not torch.isfinite(value).all()
        }
        if invalid:
            what = ', '.join(f'{name} is {value}' for name, value in invalid.items())
            images = image_files(data_batch)
            raise FloatingPointError(
                f'iteration {runner.iter + 1}: {what}; the batch on this process was {", ".join(images) or "unnamed"}. '
                'Check the annotations of these images, lower the learning rate, or clip gradients '
                '(optim_wrapper.clip_grad).'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        invalid = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
        if invalid:
            raise FloatingPointError(
                f'iteration {runner.iter + 1}: {len(invalid)} parameters are infinite or NaN, {invalid[0]} among '
                'them; no checkpoint is written, and earlier checkpoints are unchanged'
            )


def image_files(data_batch: Any) -> list[str]:
    """The ``img_path`` of every data sample in a batch, however its pipeline groups them."""
    if isinstance(data_batch, dict):
        return image_files(data_batch.get('data_samples'))
    if isinstance(data_batch, (list, tuple)):
        return [path for item in data_batch for path in image_files(item)]
    path = getattr(data_batch, 'img_path', None)
    return [] if path is None else [str(path)]
