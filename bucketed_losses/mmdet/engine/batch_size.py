"""The number of images in an update of the weights, and the number that the learning rate was chosen for."""

from __future__ import annotations

import logging

from mmengine.config import Config
from mmengine.logging import print_log


def images_per_update(cfg: Config, processes: int) -> int | None:
    """Images in one update of the weights: processes, times images of each, times iterations between updates.

    None if the config does not say how many images a process takes.
    """
    images = cfg.train_dataloader.get('batch_size')
    return None if images is None else processes * images * cfg.optim_wrapper.get('accumulative_counts', 1)


def base_batch_size(cfg: Config) -> int | None:
    """Images in an update that the learning rate was chosen for, ``auto_scale_lr.base_batch_size``; None if not set."""
    return (cfg.get('auto_scale_lr') or {}).get('base_batch_size')


def warn_of_learning_rate(cfg: Config, processes: int) -> None:
    """Log one line if a config trains with other than its number of images at an unscaled learning rate.

    Args:
        cfg: The config.
        processes: The number of processes of the training, one for each GPU.
    """
    images, base = images_per_update(cfg, processes), base_batch_size(cfg)
    if images is None or base is None or images == base or cfg.auto_scale_lr.get('enable'):
        return
    trains = f'{processes} processes of this config train' if processes > 1 else 'one process of this config trains'
    # MMEngine's scaling does not count accumulated gradients.
    how = '' if cfg.optim_wrapper.get('accumulative_counts', 1) > 1 else '; --auto-scale-lr does so'
    print_log(
        f'the learning rate is for {base} images in an update of the weights (auto_scale_lr.base_batch_size), and '
        f'{trains} on {images}. The linear rule multiplies it by {images / base:.4g}{how}',
        'current',
        logging.WARNING,
    )
