"""Reads ``tables.csv``."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """One published number.

    Attributes:
        table: Where it stands, such as ``'Table 1'``, ``'Sec. 6.2'``, ``'S.3.1'``, or ``'log NAME'``.
        detector: The detector as the paper names it.
        backbone: ``'R-50'``, ``'R-101'``, ``'Swin-T'`` or ``'Swin-L'``; empty if the number is not that of a detector.
        loss: The loss as the paper names it; ``'stock'`` for the own losses of a DETR.
        epochs: The length of the training.
        dataset: ``'COCO'``, ``'LVIS'``, ``'Cityscapes'``, or ``'synthetic'``.
        metric: ``'box AP'`` or ``'mask AP'``, both in per cent and also as AP50, AP75, APs, APm, APl; ``'s/iter'``,
            seconds per training iteration; ``'#H'``, hyper-parameters of the losses; or a setting.
        value: The number as it is printed there.
        source: ``'paper'``, ``'repository'`` or ``'log'``.
        config: The config of this project that trains the row, below ``configs/`` and without ``.py``; may be empty.
    """

    table: str
    detector: str
    backbone: str
    loss: str
    epochs: str
    dataset: str
    metric: str
    value: str
    source: str
    config: str


@cache
def _all() -> tuple[Figure, ...]:
    text = files(__package__).joinpath('tables.csv').read_text(encoding='utf-8')
    return tuple(Figure(**row) for row in csv.DictReader(text.splitlines()))


def figures(**where: Any) -> list[Figure]:
    """The figures whose fields have given values, in the order of the file.

    Args:
        where: Fields of :class:`Figure` and their values, such as ``config='atss/atss_r50_fpn_brs_4xb4-1x_coco'``.
    """
    return [figure for figure in _all() if all(getattr(figure, name) == value for name, value in where.items())]


def published(config: str, metric: str = 'AP') -> Figure | None:
    """The paper's figure for a config; None if the paper has none.

    Args:
        config: The config, below ``configs/`` and without ``.py``.
        metric: A metric of the file, or ``'AP'``: the AP of the row, of boxes or of masks.

    Raises:
        ValueError: Two tables of the paper have different values.
    """
    metrics = ('box AP', 'mask AP') if metric == 'AP' else (metric,)
    found = [figure for figure in figures(config=config, source='paper') if figure.metric in metrics]
    if len({(figure.metric, figure.value) for figure in found}) > 1:
        raise ValueError(f'{config}: the paper has more than one {metric}: {found}')
    return found[0] if found else None


def tables_of(config: str) -> list[str]:
    """The places of the paper that have figures of a config, such as ``['Table 1', 'Table 7']``."""
    return list(dict.fromkeys(figure.table for figure in figures(config=config, source='paper')))
