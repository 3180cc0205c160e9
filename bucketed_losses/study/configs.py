"""The config of one run: a detector with one loss on the data of the study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.batch_size import base_batch_size
from bucketed_losses.mmdet.engine.config import imported_modules, type_name
from bucketed_losses.mmdet.engine.config_checks import find_config, read_config, read_editable_config
from bucketed_losses.mmdet.engine.runner import apply_options
from bucketed_losses.mmdet.swap import SwapError, swap_loss

from .learning_rates import scale_learning_rate, schedulers_of
from .plan import STOCK, Refusal, Run

DATA_KEYS = [f'{part}_{kind}' for part in ('train', 'val', 'test') for kind in ('dataloader', 'evaluator')]


def make_config(
    run: Run,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    gpus: int = 1,
    epochs: int | None = None,
) -> Config:
    """The config of one run.

    Args:
        run: The run.
        data: A config with data that replace those of the detector, or None.
        options: Settings that are put in before the loss, as ``--cfg-options`` takes them; those below
            ``model.test_cfg`` are not changed by the loss.
        gpus: Processes of the training. With more than one, the learning rate is scaled if the config says how.
        epochs: Epochs or iterations, unless the run has its own; None for those of the config. Schedules are stretched.

    Raises:
        Refusal: the config does not train a detector, the data name no classes, the detector cannot be trained with
            the loss, or the learning rate is not where it can be changed.
    """
    cfg = _read_config(run.config or run.detector.config, data, options or {})
    if run.loss != STOCK and run.config is None:
        try:
            swap = swap_loss(cfg, run.loss)
        except SwapError as error:
            raise Refusal(f'{run.detector.config} cannot be trained with {run.loss}: {error}') from error
        cfg = swap.cfg
        # A swap sets the published threshold on scores.
        apply_options(cfg, {key: value for key, value in (options or {}).items() if key.startswith('model.test_cfg.')})
        for note in swap.notes:
            if 'renew_interval' in note:
                print(f'{run}: {note}', flush=True)
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': run.seed}
    if gpus > 1 and base_batch_size(cfg) is not None:
        cfg.auto_scale_lr.enable = True  # MMEngine's runner scales by processes x images of each / base_batch_size
    budget = run.epochs or epochs
    if budget:
        stretch(cfg, budget)
    if run.lr_factor != 1:
        scale_learning_rate(cfg, run.lr_factor, run.config or run.detector.config)
    _add_hooks(cfg)
    return cfg


def _read_config(path: str, data: Path | None, options: Mapping[str, Any]) -> Config:
    try:
        cfg, _ = read_editable_config(find_config(path))
    except UserError as error:
        raise Refusal(str(error)) from error
    for key in ('model', 'train_cfg'):
        if key not in cfg:
            raise Refusal(f'{path} has no {key}: it is not a config that trains a detector')
    if data is not None:
        _replace_data(cfg, data)
    apply_options(cfg, options)
    return cfg


def _add_hooks(cfg: Config) -> None:
    hooks = list(cfg.get('custom_hooks') or [])
    present = {type_name(hook['type']) for hook in hooks}
    hooks += [dict(type=name) for name in ('InvalidLossHook', 'PreemptionHook') if name not in present]
    # The weights for the comparison of gradients. Those that it does not need are removed after the training.
    by_epoch, budget = budget_of(cfg)
    hooks.append(
        dict(
            type='CheckpointHook',
            interval=1 if by_epoch else max(budget // 12, 1),
            by_epoch=by_epoch,
            save_optimizer=False,
            save_param_scheduler=False,
            filename_tmpl='{}.pth',
        )
    )
    cfg.custom_hooks = hooks
    # None leaves a hook out, but a study needs the log and the checkpoints.
    needed = ('logger', 'checkpoint')
    given = (cfg.get('default_hooks') or {}).items()
    cfg.default_hooks = {name: hook for name, hook in given if hook is not None or name not in needed}
    default_hooks = cfg.default_hooks
    if not by_epoch:  # MMEngine would log all validations as those of epoch 0
        default_hooks.setdefault('logger', ConfigDict(type='LoggerHook')).log_metric_by_epoch = False
    checkpoint = default_hooks.setdefault('checkpoint', ConfigDict())
    checkpoint.setdefault('type', 'CheckpointHook')
    checkpoint.setdefault('max_keep_ckpts', 2)


def _replace_data(cfg: Config, data: Path) -> None:
    """Replace the data of a detector's config, and the number of classes by theirs."""
    try:
        source = read_config(data)
    except UserError as error:
        raise Refusal(f'--data: {error}') from error
    missing = [key for key in ('train_dataloader', 'val_dataloader', 'val_evaluator') if key not in source]
    if missing:
        raise Refusal(f'{data} is not a config of a data set: it has no {", ".join(missing)}')
    for key in DATA_KEYS:
        if key in source:
            cfg[key] = source[key]
    cfg.pop('data_root', None)
    if 'data_root' in source:
        cfg.data_root = source.data_root  # --cfg-options data_root=... replaces it
    modules = dict.fromkeys(name for one in (cfg, source) for name in imported_modules(one.get('custom_imports')))
    if modules:
        cfg.custom_imports = {**(cfg.get('custom_imports') or {}), 'imports': [*modules]}
    classes = classes_of(source.train_dataloader.dataset)
    if not classes:
        kind = source.train_dataloader.dataset.type
        raise Refusal(f'{data}: {kind} names no classes; give train_dataloader.dataset.metainfo.classes')
    _set_num_classes(cfg.model, len(classes))


def classes_of(dataset: ConfigDict) -> list[str]:
    """The names of the classes of a data set's config, or none if they are not known."""
    while 'metainfo' not in dataset and 'dataset' in dataset:  # RepeatDataset and other wrappers
        dataset = dataset.dataset
    registered = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    classes = dataset.get('metainfo', {}).get('classes') or getattr(registered, 'METAINFO', {}).get('classes') or []
    return [classes] if isinstance(classes, str) else list(classes)


def _set_num_classes(part: Any, number: int) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == 'num_classes':
                part[key] = number
            elif key != 'rpn_head':  # has one class with any data
                _set_num_classes(value, number)
    elif isinstance(part, (list, tuple)):
        for item in part:
            _set_num_classes(item, number)


def budget_of(cfg: Config) -> tuple[bool, int]:
    """Whether training is counted in epochs, and the number of epochs or iterations."""
    loop = cfg.train_cfg
    by_epoch = loop.get('by_epoch', loop.get('type', 'EpochBasedTrainLoop') == 'EpochBasedTrainLoop')
    return by_epoch, loop.max_epochs if by_epoch else loop.max_iters


def stretch(cfg: Config, budget: int) -> None:
    """Give a config another number of epochs or iterations, and stretch its schedules, except for warm-ups."""
    by_epoch, old = budget_of(cfg)
    cfg.train_cfg['max_epochs' if by_epoch else 'max_iters'] = budget
    for scheduler in schedulers_of(cfg):
        if scheduler.get('by_epoch', True) != by_epoch:
            continue
        warms_up = scheduler.get('type') == 'LinearLR' and scheduler.get('start_factor', 1 / 3) < scheduler.get(
            'end_factor', 1.0
        )
        for key in () if warms_up else ('begin', 'end', 'T_max'):
            if key in scheduler:
                scheduler[key] = round(scheduler[key] * budget / old)
        if 'milestones' in scheduler:
            scheduler.milestones = [round(step * budget / old) for step in scheduler.milestones]


def other_settings_note(run: Run, cfg: Config, stock: Config) -> str | None:
    """The settings outside the model in which the config of a loss differs from that of its detector, or None.

    Args:
        run: A run whose loss is given by a config.
        cfg: The config of the run.
        stock: The config of the detector with its own losses and the same seed and learning-rate factor.
    """
    before, now = _taken_by_runner(stock), _taken_by_runner(cfg)
    differing = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key) and key.partition('.')[0] != 'model'
    )
    if not differing:
        return None
    return (
        f'{run.detector.name} {run.loss}: its config also has other settings outside the model: {", ".join(differing)}'
    )


def _taken_by_runner(cfg: Config) -> dict[str, Any]:
    """The settings that MMEngine's runner takes; other names at the top of a config are there for the config itself."""
    taken = signature(Runner.__init__).parameters.keys() | {'runner_type'}
    return {key: value for key, value in flat(cfg).items() if key.partition('.')[0] in taken}


def write_config(cfg: Config, path: Path) -> None:
    """Write a run's config in full, so that the study stays the same if the detector's config changes.

    Raises:
        Refusal: a config with other settings is there, for this seed or for another seed of the same loss.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    label = path.stem.rpartition('_')[0]
    settings = _taken_by_runner(Config.fromstring(cfg.pretty_text, '.py'))
    for other in sorted(path.parent.glob('*.py')):
        if re.fullmatch(rf'{re.escape(label)}_\d+', other.stem):
            _check_settings(settings, other, path)
    if not path.is_file():
        aside = path.with_name(f'{path.stem}_being_written.py')
        cfg.dump(aside)
        aside.replace(path)


def _check_settings(now: Mapping[str, Any], existing: Path, path: Path) -> None:
    before = _taken_by_runner(Config.fromfile(existing))
    differing = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key) and not (key == 'randomness.seed' and existing != path)
    )
    if differing:
        key = differing[0]
        raise Refusal(
            f'{existing} was made with other settings: {key} was {before.get(key)!r} and is {now.get(key)!r} now'
            f'{f" ({len(differing)} differ)" if len(differing) > 1 else ""}; use another STUDY, or remove this file '
            'and the run'
        )


def flat(part: Any, prefix: str = '') -> dict[str, Any]:
    """The settings of a config by their full names, e.g. ``model.bbox_head.num_classes``."""
    if isinstance(part, (dict, Config)):
        return {k: v for key, value in part.items() for k, v in flat(value, f'{prefix}.{key}'.lstrip('.')).items()}
    return {prefix: part}
