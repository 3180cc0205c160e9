"""The learning rate of a config: what it is, whether it follows the batch size, and another one."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict

from bucketed_losses.mmdet.engine.batch_size import base_batch_size, images_per_update

from .plan import Detector, Refusal


def learning_rate(cfg: Config, gpus: int = 1) -> float | None:
    """The learning rate that a config trains with; None if it has none at ``optim_wrapper.optimizer.lr``.

    If the config enables it, MMEngine scales the rate by the number of images of an iteration.
    """
    rate = (cfg.get('optim_wrapper', {}).get('optimizer') or {}).get('lr')
    base = base_batch_size(cfg)
    if rate is None or base is None or not cfg.auto_scale_lr.get('enable'):
        return rate
    return rate * gpus * cfg.train_dataloader.batch_size / base


def scale_learning_rate(cfg: Config, factor: float, path: str) -> None:
    """Multiply the learning rate, and the absolute rates of schedules.

    Args:
        cfg: The config, which is changed.
        factor: The factor.
        path: The file of the config, for the message.

    Raises:
        Refusal: there is no ``optim_wrapper.optimizer.lr``.
    """
    if learning_rate(cfg) is None:
        raise Refusal(f'--lr-factors: {path} has no optim_wrapper.optimizer.lr, so its learning rate is not changed')
    cfg.optim_wrapper.optimizer.lr *= factor
    for scheduler in schedulers_of(cfg):
        for key in ('eta_min', 'eta_max'):
            if scheduler.get(key):
                scheduler[key] *= factor


def schedulers_of(cfg: Config) -> list[ConfigDict]:
    """The schedulers of a config, as a list."""
    schedulers = cfg.get('param_scheduler') or []
    return list(schedulers) if isinstance(schedulers, (list, tuple)) else [schedulers]


def learning_rate_note(detector: Detector, cfg: Config, gpus: int) -> str | None:
    """Whether the learning rate of a run's config is scaled, and why not; None if there is nothing to scale.

    The linear rule: the learning rate is proportional to the number of images in an iteration.
    """
    images = cfg.train_dataloader.get('batch_size')
    scaling = cfg.get('auto_scale_lr') or {}
    base = base_batch_size(cfg)
    if base is None:
        return (
            f'{detector.name}: the learning rate is not scaled for {gpus} GPUs, because the config has no '
            'auto_scale_lr.base_batch_size, the number of images per iteration that its learning rate was chosen for'
            if gpus > 1
            else None
        )
    if images is None or gpus * images == base:
        return None
    if not scaling.get('enable') and images_per_update(cfg, gpus) == base:
        return None  # gradients are accumulated
    rule = f'{gpus * images} images per iteration instead of the {base} of auto_scale_lr.base_batch_size'
    if scaling.get('enable'):
        return f'{detector.name}: the learning rate is multiplied by {gpus * images / base:.4g}: {rule}'
    return (
        f'{detector.name}: the learning rate is not scaled although there are {rule}, because --gpus is 1; '
        '--cfg-options auto_scale_lr.enable=True scales it'
    )
