"""A row of the paper: the paper's figures, and how its config trains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.config_checks import read_config
from bucketed_losses.mmdet.engine.runner import apply_options, parse_options
from bucketed_losses.mmdet.suggestions import nearest
from bucketed_losses.paper import Figure, figures, published, tables_of
from bucketed_losses.shipped_files import shipped


@dataclass(frozen=True)
class Row:
    """A row of the paper.

    Attributes:
        config: The config, below ``configs/`` and without ``.py``.
        file: The file of the config.
        images: Images of each GPU in an iteration.
        base_batch_size: Images of all GPUs in an iteration that the learning rate is for.
        learning_rate: The learning rate of the config.
        epochs: The length of the training.
        workers: Processes of each GPU that load data.
        data_root: The folder of the data, relative to the current one.
        weights: A detector whose weights the training starts from; None if only the backbone is pre-trained.
    """

    config: str
    file: Path
    images: int
    base_batch_size: int
    learning_rate: float
    epochs: int
    workers: int
    data_root: str
    weights: str | None

    @property
    def name(self) -> str:
        """What the command line calls it: the name of its config."""
        return Path(self.config).name

    @property
    def gpus(self) -> int:
        """GPUs that its learning rate is for; 1 if one GPU has more images than it is for."""
        return max(self.base_batch_size // self.images, 1)

    @property
    def ap(self) -> Figure | None:
        """The paper's AP; None for a row that the paper has only timed."""
        return published(self.config)

    @property
    def seconds(self) -> Figure | None:
        """The paper's seconds per iteration, if it has them."""
        return published(self.config, 's/iter')

    @property
    def figure(self) -> Figure:
        """A figure of the row, for the names of its detector, backbone, loss and data set."""
        return figures(config=self.config, source='paper')[0]

    @property
    def tables(self) -> list[str]:
        """The places of the paper that have it."""
        return tables_of(self.config)


def row_configs() -> list[str]:
    """The configs of all rows, below ``configs/`` and without ``.py``, in the order of the paper."""
    return list(dict.fromkeys(figure.config for figure in figures(source='paper') if figure.config))


def read_row(name: str, options: Sequence[str] = ()) -> Row:
    """The row with a name.

    Args:
        name: The name of its config, such as ``atss_r50_fpn_brs_4xb4-1x_coco``.
        options: Settings of the config to change, written KEY=VALUE.

    Raises:
        UserError: There is no such row, or an option does not fit its config.
    """
    configs = {Path(config).name: config for config in row_configs()}
    name = Path(name).name.removesuffix('.py')
    if name not in configs:
        raise UserError(f'the paper has no row {name!r}{nearest(name, configs)}; --list shows all of them')
    file = shipped(f'configs/{configs[name]}.py')
    cfg = read_config(file)
    apply_options(cfg, parse_options(options))
    images = _number(cfg, 'train_dataloader.batch_size')
    return Row(
        config=configs[name],
        file=file,
        images=images,
        base_batch_size=_number(cfg, 'auto_scale_lr.base_batch_size', default=images),
        learning_rate=_number(cfg, 'optim_wrapper.optimizer.lr', (int, float)),
        epochs=_number(cfg, 'train_cfg.max_epochs'),
        workers=_number(cfg, 'train_dataloader.num_workers', default=0, least=0),
        data_root=cfg.data_root,
        weights=cfg.get('load_from'),
    )


def _number(cfg: Config, key: str, kind: Any = int, default: int | None = None, least: int = 1) -> Any:
    """A number in a config; options may have put something else there."""
    value: Any = cfg._cfg_dict
    for name in key.split('.'):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, kind) or (value < least if kind is int else value <= 0):
        what = f'a whole number, {least} or more' if kind is int else 'a number above 0'
        raise UserError(f'--cfg-options: {key} must be {what}, got {value!r}')
    return value
