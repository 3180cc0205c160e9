"""What is wrong with a config, said before anything is built: names nobody registered, files that are not there."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner

from ..suggestions import nearest

# The values of these keys are modules of MMDetection's registry of models, whose names users write themselves.
_MODULES = ('model', 'detector', 'backbone', 'neck', 'encoder', 'decoder', 'teacher', 'student')
_SUFFIXES = {'CocoDataset': ('.json',), 'LVISV1Dataset': ('.json',), 'VOCDataset': ('.txt',)}


def check_names(cfg: Config) -> None:
    """Refuse a model with detectors, heads or losses that nobody registered.

    Raises:
        KeyError: names the setting, the name and the nearest registered ones.
    """
    # A module is in the registry once its package is imported.
    importlib.import_module('mmdet.models')
    for path, part in _named_parts(cfg.get('model', {}), 'model', 'model'):
        name = part['type']
        if isinstance(name, str) and '.' not in name and MODELS.get(name) is None:
            suggestion = nearest(name, MODELS.module_dict) or '.'
            raise KeyError(
                f'{path}.type: no module is registered as {name!r}{suggestion} A module of your own '
                'is registered by the import of its file: name it in custom_imports'
            )


def _named_parts(part: Any, path: str, key: str) -> Iterator[tuple[str, dict]]:
    if isinstance(part, dict):
        if 'type' in part and (key in _MODULES or 'loss' in key or key.endswith(('_head', '_heads', '_extractor'))):
            yield path, part
        for name, value in part.items():
            yield from _named_parts(value, f'{path}.{name}', name)
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            yield from _named_parts(value, f'{path}.{index}', key)


def check_files(cfg: Config, loaders: Sequence[str]) -> None:
    """Refuse data sets whose annotation file is missing, is a folder, or is of another type than the data set reads.

    Files behind a storage backend are left to it.

    Args:
        cfg: The config.
        loaders: Names of the data loaders that will be used, e.g. ``('train_dataloader', 'val_dataloader')``.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: its suffix is another.
    """
    for loader in loaders:
        for path, dataset in _datasets(cfg.get(loader) or {}, loader):
            file = dataset.get('ann_file')
            if not file or '://' in str(file) or dataset.get('backend_args'):
                continue
            full = Path(file) if Path(file).is_absolute() else Path(dataset.get('data_root') or '', file)
            suffixes = _SUFFIXES.get(str(dataset.get('type')), (full.suffix,))
            if full.suffix not in suffixes:
                raise ValueError(
                    f'{path}.ann_file: {dataset["type"]} reads {" or ".join(suffixes)} files, got {full}; another data '
                    'set type reads that one'
                )
            # This package's data sets say themselves where their data come from.
            own = str(dataset.get('type')).startswith(('Checked', 'BCCD', 'Shapes'))
            if not full.is_file() and not own:
                raise FileNotFoundError(
                    f'{path}.ann_file: {full.resolve()} {"is a folder" if full.is_dir() else "does not exist"}; put '
                    'the data there, or move all of it with --cfg-options data_root=FOLDER'
                )


def _datasets(part: Any, path: str) -> Iterator[tuple[str, dict]]:
    if isinstance(part, dict):
        if 'ann_file' in part:
            yield path, part
        for name, value in part.items():
            yield from _datasets(value, f'{path}.{name}')
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            yield from _datasets(value, f'{path}.{index}')


def check_not_empty(runner: Runner, loops: Sequence[str]) -> None:
    """Build the loops with their data, as the runner would, and refuse data sets without images.

    MMEngine fails on them with "need at least one array to concatenate".

    Args:
        runner: The runner.
        loops: 'train', 'val' or 'test', those that will run.

    Raises:
        ValueError: a data set has no images left.
    """
    for loop in loops:
        try:
            getattr(runner, f'{loop}_loop')
        except ValueError as error:
            if 'need at least one array' not in str(error):
                raise
            datasets = list(_datasets(runner.cfg[f'{loop}_dataloader'], f'{loop}_dataloader'))
            path, dataset = datasets[0]
            file = Path(dataset.get('data_root') or '', dataset['ann_file'])
            raise ValueError(
                f'{path}: {dataset.get("type")} has no images: in {file} none has objects of the classes, or '
                f'filter_cfg={dataset.get("filter_cfg")} leaves all of them out'
            ) from error
