"""Finds errors in a config or its data before training starts.

The checks concern the file of a config (:func:`find_config`, :func:`read_config`), its keys and names
(:func:`check_keys`, :func:`check_names`), the files of its data sets (:func:`check_files`), and the data sets
themselves (:func:`check_not_empty`, :func:`check_classes`) and the annotations of metrics (:func:`check_metrics`).
"""

from __future__ import annotations

import ast
import importlib
import json
import logging
import re
import traceback
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset, LVISV05Dataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.utils import get_installed_path, import_modules_from_strings, is_installed

from ...errors import UserError
from ..suggestions import nearest
from .config import functions_in

# Of other names, MMEngine's search for a package raises an error.
_PACKAGE = re.compile(r'[A-Za-z0-9]\w*(-\w+)*', re.ASCII)
CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')


class UnknownNameError(UserError, KeyError):
    """A name in a config is not registered."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that a config names does not exist."""


def find_config(name: str) -> Path:
    """The file of a config given as a path or as PACKAGE::PATH.

    Raises:
        UserError: There is no such file, or its suffix is not that of a config.
    """
    package, separator, path = name.rpartition('::')
    if separator:
        if not _PACKAGE.fullmatch(package):
            raise UserError(f'{name}: {package!r} is not the name of a package; write, for example, mmdet::{path}')
        if not is_installed(package):
            raise UserError(f'{name}: the package {package} is not installed')
        file = Path(get_installed_path(package), '.mim', 'configs', path)
    else:
        file = Path(name)
    if file.suffix not in CONFIG_SUFFIXES:
        raise UserError(f'{name} must end in {", ".join(CONFIG_SUFFIXES)}, got {file.suffix or "none"}')
    if not file.is_file():
        if file.is_dir():
            raise UserError(f'{name}: {file} is a folder; name a config file')
        similar = nearest(file.name, [other.name for other in file.parent.glob('*') if other.suffix in CONFIG_SUFFIXES])
        raise MissingFileError(f'{name}: there is no file {file}{similar}')
    return file


def read_config(name: str | Path, **options: Any) -> Config:
    """``Config.fromfile`` for a path or PACKAGE::PATH.

    Args:
        name: The config.
        options: As for ``Config.fromfile``.

    Raises:
        UserError: There is no such file, or it cannot be read as a config. The message names the file and, if its code
            raises an error, the line.
    """
    file = find_config(str(name))
    try:
        return Config.fromfile(file, **options)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f'{name}: a file that it inherits or reads is missing: {error}') from error
    except SyntaxError as error:
        raise UserError(f'{name}: {_syntax_error(file, error)}') from error
    except Exception as error:  # a config is user code and may raise any exception
        kind = '' if str(error).startswith(type(error).__name__) else f'{type(error).__name__}: '
        raise UserError(f'{name}: {kind}{error}{_place_in_config(error)}; --debug shows the traceback') from error


def read_editable_config(file: Path) -> tuple[Config, bool]:
    """A config to be changed and written, and whether text can inherit it.

    A config of MMEngine's lazy kind cannot be inherited by text; it is returned as a text config with all its settings.
    The modules in ``custom_imports`` are imported, because they may register heads with a recipe. A module that is not
    installed causes a warning only: most changes do not need it.

    Raises:
        UserError: as for :func:`read_config`; or a setting of a lazy config is a function that its file defines.
    """
    cfg = read_config(file, import_custom_modules=False)
    import_custom_modules(cfg, str(file), allow_failed_imports=True)
    if file.suffix == '.py' and Config._is_lazy_import(str(file)):
        return Config.fromstring(_text_of_lazy(cfg, file), '.py'), False
    return cfg, True


def _text_of_lazy(cfg: Config, file: Path) -> str:
    """The settings of a lazy config as text; functions that its file defines for itself are no settings.

    Raises:
        UserError: A setting is such a function.
    """
    settings = {key: value for key, value in cfg.to_dict().items() if not isinstance(value, types.FunctionType)}
    if functions := ['.'.join(map(str, path)) for path in functions_in(settings)]:
        raise UserError(
            f'{file}: {" and ".join(functions)} is a function of a lazy config, which is read as text here; define it '
            'in a module and import it from there'
        )
    return Config(settings).pretty_text


def lazy_config_files(file: Path) -> list[Path]:
    """The file of a config of MMEngine's lazy kind, and those that it inherits in ``with read_base():``."""
    files = [file]
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        for line in node.body if isinstance(node, ast.With) else ():
            if isinstance(line, ast.ImportFrom) and line.module is not None:
                first, *others = line.module.split('.')
                if line.level:
                    base = file.absolute().parents[line.level - 1].joinpath(first, *others)
                else:
                    base = Path(get_installed_path(first), *others)
                files += lazy_config_files(base.with_name(f'{base.name}.py'))
    return files


def import_custom_modules(cfg: Config, where: str, **options: Any) -> None:
    """Import the modules in ``custom_imports``.

    Args:
        cfg: The config.
        where: Its name, for errors.
        options: Replace settings of ``custom_imports`` for this call.

    Raises:
        UserError: A module raises an exception, or is not installed (unless ``allow_failed_imports``).
    """
    try:
        import_modules_from_strings(**{'imports': None, **(cfg.get('custom_imports') or {}), **options})
    except Exception as error:  # a module is user code and may raise any exception
        cause = f'{type(error).__name__}: {error}'
        if 'is already registered' in cause and 'bucketed_losses' in cause:
            cause += ' (this package has the class: leave the other module out of custom_imports)'
        raise UserError(f'{where}: custom_imports: {cause}; --debug shows the traceback') from error


def _syntax_error(file: Path, error: SyntaxError) -> str:
    if error.lineno is None or error.text is None:  # MMEngine raised and formatted it
        return str(error)
    try:
        ast.parse(file.read_text(encoding='utf-8'))
        where = 'a file that it inherits'
    except SyntaxError:
        where = 'this file'
    return f'syntax error in {where}, line {error.lineno}, {error.text.strip()!r}: {error.msg}'


def _place_in_config(error: Exception) -> str:
    """The innermost line of a config in the traceback of an error, for a message."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.name == '<module>' and frame.filename.endswith('.py'):
            return f' ({frame.filename}, line {frame.lineno})'
    return ''


def check_keys(cfg: Config, keys: Sequence[str]) -> None:
    """Check that a config has the settings that a command needs.

    Args:
        cfg: The config.
        keys: Top-level keys, e.g. ``('model', 'train_dataloader')``.

    Raises:
        UserError: Settings are missing; the message names them.
    """
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise UserError(
            f'{cfg.filename or "the config"} has no {", ".join(missing)}; give a complete config, which sets or '
            'inherits these keys'
        )


# The values of these keys are modules in MMDetection's registry of models. Users write the names of these modules.
_MODULES = ('model', 'detector', 'backbone', 'neck', 'encoder', 'decoder', 'teacher', 'student')
_SUFFIXES = {'CocoDataset': ('.json',), 'LVISV1Dataset': ('.json',), 'VOCDataset': ('.txt',)}


def check_names(cfg: Config) -> None:
    """Check that the detectors, heads and losses of a model are registered.

    Raises:
        UnknownNameError: One is not; the message has the setting, the name and the most similar registered names.
    """
    # A module is in the registry once its package is imported.
    importlib.import_module('mmdet.models')
    for path, part in _named_parts(cfg.get('model', {}), 'model', 'model'):
        name = part['type']
        if isinstance(name, str) and '.' not in name and MODELS.get(name) is None:
            suggestion = nearest(name, MODELS.module_dict) or '.'
            raise UnknownNameError(
                f'{path}.type: no module is registered as {name!r}{suggestion} To register your own module, '
                'name its file in custom_imports'
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
    """Check that the annotation files of data sets and of their evaluators exist.

    A file of a data set must also have the type that the data set reads. Files in a remote storage backend are not
    checked.

    Args:
        cfg: The config.
        loaders: Names of the data loaders that will be used, e.g. ``('train_dataloader', 'val_dataloader')``.

    Raises:
        MissingFileError: The file does not exist, or it is a folder.
        UserError: The file has another suffix.
    """
    for loader in loaders:
        missing = False
        for path, dataset, full in _annotation_files(cfg, loader):
            suffixes = _SUFFIXES.get(str(dataset.get('type')), (full.suffix,))
            if full.suffix not in suffixes:
                raise UserError(
                    f'{path}.ann_file: {dataset["type"]} reads {" or ".join(suffixes)} files, got {full}; use a data '
                    'set type that reads this file'
                )
            # This package's data sets check their files themselves, and their errors say how to get the data.
            own = str(dataset.get('type')).startswith(('Checked', 'BCCD', 'Cards', 'Shapes'))
            missing |= not full.is_file()
            if not full.is_file() and not own:
                raise MissingFileError(
                    f'{path}.ann_file: {full.resolve()} {"is a folder" if full.is_dir() else "does not exist"}; put '
                    'the file there, or set the folder of all data with --cfg-options data_root=FOLDER'
                )
        for path, _, full in _annotation_files(cfg, loader.replace('dataloader', 'evaluator')):
            if not full.is_file() and not missing:
                raise MissingFileError(
                    f'{path}.ann_file: {full.resolve()} {"is a folder" if full.is_dir() else "does not exist"}; set it '
                    f'to the annotations of the data set of {loader}'
                )


def _annotation_files(cfg: Config, part: str) -> Iterator[tuple[str, dict, Path]]:
    """The annotation files in a part of the config: where they are, the dict that names the file, and the file."""
    for path, dataset in _datasets(cfg.get(part) or {}, part):
        file, folder = dataset['ann_file'], dataset.get('data_root') or ''
        if (
            isinstance(file, (str, Path))
            and file
            and '://' not in f'{folder}{file}'
            and not dataset.get('backend_args')
        ):
            yield path, dataset, Path(folder, file)


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
    """Build the loops with their data, as the runner does, and check that the data sets have images and objects.

    Training data needs at least one object; evaluation data needs at least one image. A data set inside a wrapper
    (``RepeatDataset``, ``ConcatDataset``, ``ClassBalancedDataset``) must not be empty either.

    Args:
        runner: The runner.
        loops: 'train', 'val' or 'test', those that will run.

    Raises:
        UserError: A data set is empty; the message names the data set and its file. If the reason is that the file
            does not have the classes, it is that of :func:`check_classes`.
    """
    for loop in loops:
        key = f'{loop}_dataloader'
        try:
            getattr(runner, f'{loop}_loop')
        except UserError:
            raise
        except ValueError:
            # For a data set without images, MMEngine fails with an error of NumPy.
            for path, config in _datasets(runner.cfg.get(key) or {}, key):
                empty = _empty_dataset(config)
                if empty is not None:
                    _check_categories(path, empty, loop)
                    raise _no_images(path, config) from None
            raise
        datasets = list(_datasets_of(runner, loop))
        for path, dataset in datasets:
            if len(dataset) == 0:
                _check_categories(path, dataset, loop)
                raise _no_images(path, {**vars(dataset), 'type': type(dataset).__name__})
        if loop == 'train' and datasets and not any(_has_objects(dataset) for _, dataset in datasets):
            files = ', '.join(str(dataset.ann_file) for _, dataset in datasets)
            raise UserError(
                f'{key}: there is no object to train on in {files}: each box is of another class, smaller than a '
                'pixel, of zero area, outside its image, or marked as a crowd or ignored'
            )


def _empty_dataset(config: dict) -> BaseDataset | None:
    """A data set that has no images, or None; it is built without serialization, which fails for such a data set."""
    try:
        # If there are no images, only the serialization fails.
        dataset = DATASETS.build({**config, 'serialize_data': False, 'lazy_init': False, 'pipeline': []})
        return dataset if len(dataset) == 0 else None
    except Exception:  # noqa: BLE001  (the caller raises its own error, which has another cause then)
        return None


def _no_images(path: str, dataset: dict) -> UserError:
    file = Path(dataset.get('ann_file') or '')
    if not file.is_file():
        file = Path(dataset.get('data_root') or '', file)
    return UserError(
        f'{path}: {dataset.get("type")} has no images: {file} contains none, none has objects of the classes, or '
        f'filter_cfg={dataset.get("filter_cfg")} removes all of them'
    )


def _datasets_of(runner: Runner, loop: str) -> Iterator[tuple[str, BaseDataset]]:
    """The data sets of a loop without their wrappers, with their paths in the config."""
    loader = getattr(getattr(runner, f'{loop}_loop'), 'dataloader', None)
    if loader is not None:
        yield from _leaves(loader.dataset, f'{loop}_dataloader.dataset')


def _leaves(dataset: Any, path: str) -> Iterator[tuple[str, BaseDataset]]:
    if hasattr(dataset, 'datasets'):
        for index, part in enumerate(dataset.datasets):
            yield from _leaves(part, f'{path}.datasets.{index}')
    elif hasattr(dataset, 'dataset'):
        yield from _leaves(dataset.dataset, f'{path}.dataset')
    elif isinstance(dataset, BaseDataset):
        yield path, dataset


def _has_objects(dataset: Any) -> bool:
    """Whether an image has an object to train on; True for a data set that has no boxes but other annotations.

    Stops at the first such image.
    """
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        if not isinstance(info, dict) or 'instances' not in info or 'segments_info' in info:
            return True
        if any(not instance.get('ignore_flag') for instance in info['instances']):
            return True
    return False


def check_classes(runner: Runner, loops: Sequence[str]) -> None:
    """Check that COCO-format files have all classes of the config, each of them once and in the same order.

    Otherwise MMDetection would assign wrong labels without an error: it numbers labels in the order of the categories
    in the file. Categories that are not in the config are allowed, because MMDetection leaves them out. LVIS data sets
    use all categories of their file, so only their number is checked. Training data without any annotations
    (semi-supervised training) is allowed. The data sets must have their classes in the same order.

    Args:
        runner: The runner; the data sets of the loops are built.
        loops: 'train', 'val' or 'test'.

    Raises:
        UserError: Classes are missing, occur twice or have another order; the message names them and the file.
    """
    orders: dict[frozenset[str], tuple[str, list[str]]] = {}
    for loop in loops:
        for path, dataset in _datasets_of(runner, loop):
            classes = dataset.metainfo.get('classes') or ()
            earlier, order = orders.setdefault(frozenset(classes), (path, list(classes)))
            if list(classes) != order:
                raise UserError(
                    f'{path}: metainfo.classes has the order {_some(classes)}, and that of {earlier} has the order '
                    f'{_some(order)}; write the same classes for all data sets'
                )
            _check_categories(path, dataset, loop)


def _check_categories(path: str, dataset: Any, loop: str) -> None:
    """Check the categories in a data set's file, for :func:`check_classes`."""
    classes = dataset.metainfo.get('classes') or ()
    if not isinstance(dataset, CocoDataset) or not hasattr(dataset, 'cat_ids'):
        return
    if isinstance(classes, str) or (loop == 'train' and not any(dataset.cat_img_map.values())):
        return
    takes_all = isinstance(dataset, LVISV05Dataset)
    if takes_all and len(dataset.cat_ids) >= len(classes):
        return
    categories = _categories(dataset)
    by_id = {category['id']: category['name'] for category in categories}
    labels = [by_id[category_id] for category_id in dataset.cat_ids]
    if labels == list(classes):
        return
    names = Counter(category['name'] for category in categories)
    missing = [name for name in classes if name not in names]
    twice = [name for name in classes if names[name] > 1]
    if missing:
        raise UserError(
            f'{path}: {dataset.ann_file} has no category for {len(missing)} of the {len(classes)} classes of '
            f'the config: {_some(missing)}; it has {_some(list(names))}. Set metainfo.classes of all data sets '
            'to the classes of the file, and num_classes of the model to their number, or give another file'
        )
    if twice and not takes_all:
        raise UserError(f'{path}: {dataset.ann_file} has two categories of the same name: {_some(twice)}')
    if not takes_all:
        raise UserError(
            f'{path}: the categories in {dataset.ann_file} have the order {_some(labels)}, and '
            f'metainfo.classes has {_some(classes)}. MMDetection numbers labels in the order of the file. '
            'Write metainfo.classes of all data sets in this order; if the files differ in their order, sort '
            'their categories'
        )


def _categories(dataset: CocoDataset) -> list[dict]:
    """The categories in a data set's file. MMDetection's data sets do not keep them, so they are read again.

    Parsing all annotations of COCO again would take seconds in each process, so only the categories are parsed.
    """
    if hasattr(dataset, 'categories'):
        return dataset.categories
    with get_local_path(dataset.ann_file, backend_args=dataset.backend_args) as path:
        text = Path(path).read_text(encoding='utf-8')
    places = [match.end() for match in re.finditer(r'"categories"\s*:\s*(?=\[)', text)]
    # If the key occurs elsewhere, too, only the whole file shows which one is meant.
    return json.JSONDecoder().raw_decode(text, places[0])[0] if len(places) == 1 else json.loads(text)['categories']


def check_metrics(runner: Runner, loops: Sequence[str]) -> None:
    """Check that every ``CocoMetric`` has the classes of the data set, and the fields that COCO's evaluation reads.

    Otherwise the first evaluation would fail or be wrong, after an epoch of training or after all images were tested.
    An annotation with the id 0 causes a warning: COCO's evaluation takes it for no object.

    Args:
        runner: The runner; the evaluators of the loops are built.
        loops: 'train', 'val' or 'test'.

    Raises:
        UserError: The file lacks a class, or has the classes in another order; an annotation lacks a field, or its id
            is not a number. The message names them and the file.
    """
    for loop in loops:
        evaluator = getattr(getattr(runner, f'{loop}_loop'), 'evaluator', None)
        for index, metric in enumerate(getattr(evaluator, 'metrics', ())):
            annotations = getattr(metric, '_coco_api', None)  # None if the metric takes the objects from the data set
            if not isinstance(metric, CocoMetric) or annotations is None:
                continue
            where = _evaluator_file(runner.cfg, loop, index)
            _check_classes_of_metric(metric, annotations, where)
            for annotation in annotations.dataset.get('annotations', ()):  # a test set may have none
                missing = [key for key in ('iscrowd', 'area') if key not in annotation]
                if missing:
                    raise UserError(
                        f'{where}: annotation {annotation["id"]} has no {missing[0]}, which the evaluation needs; '
                        'iscrowd is 0 for a single object, and area is in square pixels'
                    )
                if not _is_number(annotation['id']):
                    raise UserError(
                        f'{where}: the id of an annotation is {annotation["id"]!r}, and the evaluation needs numbers; '
                        'number the annotations from 1'
                    )
            if 0 in annotations.anns:
                print_log(
                    f'{where}: an annotation has the id 0, and a right detection of this object counts as wrong in AP; '
                    'number the annotations from 1',
                    'current',
                    logging.WARNING,
                )


def _check_classes_of_metric(metric: CocoMetric, annotations: Any, where: str) -> None:
    """Check the categories in a metric's file, for :func:`check_metrics`."""
    classes = (metric.dataset_meta or {}).get('classes') or ()
    if isinstance(classes, str) or not classes:
        return
    names = [annotations.cats[category]['name'] for category in annotations.get_cat_ids(cat_names=list(classes))]
    if names == list(classes):
        return
    missing = [name for name in classes if name not in names]
    if missing:
        raise UserError(
            f'{where} has no category for {len(missing)} of the {len(classes)} classes of the data set: '
            f'{_some(missing)}; give the annotations of this data set'
        )
    raise UserError(
        f'{where}: the categories have the order {_some(names)}, and the classes of the data set the order '
        f'{_some(classes)}; give the annotations of this data set'
    )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _evaluator_file(cfg: Config, loop: str, index: int) -> str:
    """Where the annotations of a metric are, for a message."""
    configs = cfg[f'{loop}_evaluator']
    config = configs[index] if isinstance(configs, (list, tuple)) else configs
    return f'{loop}_evaluator: {config.get("ann_file")}'


def _some(names: Sequence[str], most: int = 10) -> str:
    return ', '.join(map(str, names[:most])) + (', …' if len(names) > most else '') if names else 'none'
