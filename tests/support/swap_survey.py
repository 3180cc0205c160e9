"""What becomes of MMDetection's own configs when a ranking loss is put into them: three training steps, or a refusal.

python tests/support/swap_survey.py OUT.csv [FAMILY ...]      train with BRS and AP Loss; replaces their rows in OUT.csv
python tests/support/swap_survey.py OUT.csv --table           print the tables of outcomes for the docs
python tests/support/swap_survey.py OUT.csv --heads           print the table of heads for the docs
python tests/support/swap_survey.py OUT.csv --left-out        print the configs that are not counted, for the docs
python tests/support/swap_survey.py OUT.csv --converted       swap all configs and train none; print what is refused
"""

from __future__ import annotations

import argparse
import csv
import gc
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from demo_batches import demo_batch
from mmdet.models.backbones.trident_resnet import TridentConv
from mmdet.models.dense_heads import CenterNetHead, CornerHead
from mmdet.models.reid import BaseReID
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.utils import get_installed_path

from bucketed_losses.mmdet.models.losses import RankingLoss
from bucketed_losses.mmdet.models.recipes import Role, recipes, registered_class
from bucketed_losses.mmdet.swap import SwapError, swap_loss

T = TypeVar('T')
CONFIGS = Path(get_installed_path('mmdet'), '.mim', 'configs')
# The detectors of the paper, by what their configs call them.
SEVEN = ('FasterRCNN', 'CascadeRCNN', 'MaskRCNN', 'ATSS', 'PAA', 'RetinaNet', 'CoDETR')
TRAINED, REFUSED, FAILED = 'trained', 'refused', 'failed'
STEPS = 3
MORE_STEPS = 10
RANKING_LOSSES = ('_rank', 'loss_cls', 'rpn_cls')
# The first steps of a training have a lower learning rate; MMDetection's schedules start with a thousandth.
_WARM_UP, _START_OF_WARM_UP = 0.1, 0.001
COUNTED = 'yes'
COLUMNS = ('config', 'detector', 'family', 'counted', 'outcome', 'detail', 'falls', 'ap_outcome', 'ap_falls')


def configs(*families: str) -> list[Path]:
    """MMDetection's configs, of some folders or of all."""
    folders = [CONFIGS / family for family in families] or sorted(CONFIGS.iterdir())
    return [file for folder in folders if folder.name != '_base_' for file in sorted(folder.glob('*.py'))]


class Sums(NamedTuple):
    """The sum of all losses of a step, and that of its ranking losses without the sorting losses of RS losses."""

    total: float
    ranking: float


class Outcome(NamedTuple):
    """What became of a config.

    Attributes:
        detector: The detector's type.
        what: ``TRAINED``, ``REFUSED`` or ``FAILED``.
        detail: The names of its losses, or why it does not train.
        steps: The sums of its losses before each step on the same batch, and after the last one if there are several.
    """

    detector: str
    what: str
    detail: str
    steps: tuple[Sums, ...] = ()

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite."""
        return self.what == FAILED and self.detail.startswith(FloatingPointError.__name__)

    def falls(self) -> str:
        """What is lower after the steps than before.

        'yes': the sum of all losses; 'ranking': only that of the ranking losses, for example because the boxes that a
        stage gets from the one before have changed; 'no': neither. Nothing if there was one step.
        """
        if len(self.steps) < 2:
            return ''
        before, after = self.steps[0], self.steps[-1]
        if after.total < before.total:
            return 'yes'
        return 'ranking' if after.ranking < before.ranking else 'no'


def outcome(file: Path, loss: str = 'brs', steps: int = 1, warm_up: float = _WARM_UP) -> Outcome:
    """Put a loss into a config and train it on one batch, its learning rate multiplied by ``warm_up``."""
    try:
        cfg = Config.fromfile(file, import_custom_modules=False)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the outcome)
        return Outcome('?', FAILED, f'cannot be read: {type(error).__name__}: {_first_line(error)}')
    kind = str(cfg.get('model', {}).get('type', 'none'))
    try:
        swapped = swap_loss(cfg, loss).cfg
    except SwapError as error:
        return Outcome(kind, REFUSED, str(error))
    try:
        names, sums = _trained(swapped, steps, warm_up)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the outcome)
        return Outcome(kind, FAILED, f'{type(error).__name__}: {_first_line(error)}')
    return Outcome(kind, TRAINED, ' '.join(names), tuple(sums))


# Configs that differ in schedule or data only have the same model, the same batch and so the same outcome.
_OUTCOMES: dict[tuple[str, int, float], tuple[list[str], list[Sums]]] = {}


def _trained(cfg: Config, steps: int, warm_up: float) -> tuple[list[str], list[Sums]]:
    what_train_reads = ('model', 'optim_wrapper', 'val_evaluator')
    key = str([cfg.get(part) for part in what_train_reads] + [cfg.get('train_dataloader') is None]), steps, warm_up
    if key not in _OUTCOMES:
        _OUTCOMES[key] = train(cfg, steps, warm_up)
    return _OUTCOMES[key]


def family_of(file: Path) -> str:
    """The family of a config's model, for the table of the docs."""
    try:
        model = _model_of(file)
    except FileNotFoundError:
        return 'a base config is missing'
    if model is None:
        return 'not a model'
    families = {
        'semi-supervised': 'semi_train_cfg' in model,
        'trackers': 'tracker' in model or 'track_head' in model,
        'two stages': bool(model.get('roi_head')),
        'region proposals alone': bool(model.get('rpn_head')),
        'queries (DETR and others)': 'num_queries' in model or 'decoder' in model,
        'one stage': bool(model.get('bbox_head')),
        'masks without boxes': bool(model.get('mask_head') or model.get('panoptic_head')),
    }
    return next((family for family, holds in families.items() if holds), 'others')


def why_not_counted(file: Path) -> str:
    """``COUNTED`` if a config describes a model with a class score for each box or mask; otherwise what it is."""
    try:
        model = _model_of(file)
    except FileNotFoundError:
        return COUNTED
    if model is None:
        return 'no: parts that other configs inherit'
    if registered_class(model['type']) is BaseReID:
        return 'no: re-identification'
    head = registered_class((model.get('bbox_head') or {}).get('type', ''))
    if head is not None and issubclass(head, (CornerHead, CenterNetHead)):
        return 'no: heat maps of keypoints'
    if 'language_model' in model:
        return 'apart: conditioned on text'
    return COUNTED


def _model_of(file: Path) -> ConfigDict | None:
    """The model of a config, or None if there is none.

    Raises:
        FileNotFoundError: The config inherits one that does not exist.
    """
    model = Config.fromfile(file, import_custom_modules=False).get('model')
    return model if isinstance(model, dict) and 'type' in model else None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else ''


def train_one_step(cfg: Config) -> list[str]:
    """Build the detector with its optimiser, train it on two small images of noise; the names of its losses."""
    return train(cfg)[0]


def train(cfg: Config, steps: int = 1, warm_up: float = _WARM_UP) -> tuple[list[str], list[Sums]]:
    """The names of the losses, and their sums before each step on one batch, and after several.

    Args:
        cfg: A config of a detector; it is changed.
        steps: Number of steps.
        warm_up: Factor of its learning rate.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    init_default_scope('mmdet')
    with group_of_one():
        return _train(cfg, steps, warm_up)


@contextmanager
def group_of_one() -> Iterator[None]:
    """MMCV's synchronised norms ask for a process group when they are built."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group('gloo', init_method=Path(folder, 'group').as_uri(), rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _train(cfg: Config, steps: int, warm_up: float) -> tuple[list[str], list[Sums]]:
    model_cfg = cfg.model
    without_downloads(model_cfg)
    if 'detector' in model_cfg and cfg.get('train_dataloader') is None:
        # It only tracks: its detector is trained by another config.
        cfg = Config(dict(model=model_cfg.detector, optim_wrapper=dict(type='OptimWrapper', optimizer=_SGD)))
        cfg.model.setdefault('data_preprocessor', dict(type='DetDataPreprocessor', pad_size_divisor=32))
        model_cfg = cfg.model
    # Fixed sizes of 1024 pixels and the like: these images are small.
    model_cfg.get('data_preprocessor', {}).pop('batch_augments', None)
    if 'teacher_config' in model_cfg:  # of LD: a path in a checkout of MMDetection
        model_cfg.teacher_config = str(CONFIGS / Path(model_cfg.teacher_config).relative_to('configs'))
    if 'teacher_ckpt' in model_cfg:  # of LD and LAD: a checkpoint in the network
        model_cfg.teacher_ckpt = None
    for part in (model_cfg, model_cfg.get('detector', {})):
        few_proposals(part)
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info('epoch', 0)  # a runner counts epochs, and task-aligned heads read it
    MessageHub.get_current_instance().update_info('iter', 0)  # as it counts iterations, which BoxInst reads
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    assert any(isinstance(module, RankingLoss) for module in model.modules())
    model.init_weights()
    for module in model.modules():
        if isinstance(module, TridentConv):  # MMDetection leaves its memory as it is, for a checkpoint to fill
            torch.nn.init.kaiming_normal_(module.weight)
    model.train()
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # float16 needs an accelerator
        cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in optim_wrapper.param_groups:
        group['lr'] *= warm_up
    sums = []
    for _ in range(steps + 1 if steps > 1 else 1):  # the last one shows the losses after the steps
        torch.manual_seed(0)  # what a detector draws is the same in every step
        # The parts of train_step: mmcv's deformable convolutions crash in a backward pass with offsets that are NaN.
        with optim_wrapper.optim_context(model):
            batch = model.data_preprocessor(demo_batch(cfg), training=True)
            loss, logged = model.parse_losses(model(**batch, mode='loss'))
        losses = {name: value for name, value in logged.items() if 'loss' in name}
        if not all(torch.isfinite(value).all() for value in losses.values()):
            raise FloatingPointError(f'losses are not finite: {losses}')
        optim_wrapper.update_params(loss)
        ranking = [float(value) for name, value in losses.items() if name.endswith(RANKING_LOSSES)]
        assert ranking, losses
        sums.append(Sums(float(logged['loss']), sum(ranking)))
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise FloatingPointError('parameters are not finite')
    return sorted(losses), sums


_SGD = dict(type='SGD', lr=0.012, momentum=0.9)


def few_proposals(model: dict) -> dict:
    """The same config of a detector with as many proposals as small images need; thousands take seconds on a CPU."""
    for stage, part in (('train_cfg', 'rpn_proposal'), ('test_cfg', 'rpn')):
        settings = model.get(stage)
        if isinstance(settings, dict) and settings.get(part):
            settings[part].update(nms_pre=100, max_per_img=100)
    return model


def without_downloads(part: T) -> T:
    """The same part of a config, whose weights are drawn instead of downloaded."""
    if isinstance(part, dict):
        if isinstance(init := part.get('init_cfg'), dict) and 'checkpoint' in init:
            part['init_cfg'] = None
        if isinstance(part.get('pretrained'), str):
            part['pretrained'] = None
        for value in part.values():
            without_downloads(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            without_downloads(value)
    return part


def table(rows: list[dict[str, str]]) -> str:
    """The outcomes by family as a table of a page."""
    families: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row['counted'] == COUNTED:
            families.setdefault(row['family'], []).append(row)
    head = ('family', 'counted', 'train', 'refused', 'cannot run here')
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for family, members in sorted(families.items(), key=lambda item: -len(item[1])):
        counts = [sum(row['outcome'] == what for row in members) for what in (TRAINED, REFUSED, FAILED)]
        lines.append(f'| {family} | {len(members)} | ' + ' | '.join(map(str, counts)) + ' |')
    return '\n'.join(lines)


def summary(rows: list[dict[str, str]]) -> str:
    """One sentence with the numbers of a survey."""
    counted = [row for row in rows if row['counted'] == COUNTED]
    trained, refused, failed = (sum(row['outcome'] == what for row in counted) for what in (TRAINED, REFUSED, FAILED))
    return (
        f'Of the {len(rows)} configs, {len(counted)} have a class score for each box or mask. '
        f'**{trained} of these {len(counted)}** train, {refused} are refused, and {failed} cannot run here'
    )


def table_of_falls(rows: list[dict[str, str]]) -> str:
    """How many of the configs that train have falling losses, as a table of a page."""
    meanings = {
        'yes': 'the sum of all losses is lower',
        'ranking': 'only the ranking losses are lower',
        'later': 'neither, but one of them after ten steps at the full learning rate',
        'no': 'neither, also after ten steps',
        'diverges': 'diverges with random weights; trained for one step',
        '': 'not run',
    }
    lines = ['| after three steps on one batch | BRS Loss | AP Loss |', '|---|---|---|']
    for value, meaning in meanings.items():
        counts = [
            sum(row['counted'] == COUNTED and row['outcome'] == TRAINED and row[falls] == value for row in rows)
            for falls in ('falls', 'ap_falls')
        ]
        if any(counts):
            lines.append(f'| {meaning} | {counts[0]} | {counts[1]} |')
    return '\n'.join(lines)


def convert_all() -> Iterator[str]:
    """The counted configs that the swap refuses or that cannot be read, and how many it converts."""
    counted = [file for file in configs() if why_not_counted(file) == COUNTED]
    failed = 0
    for file in counted:
        try:
            swap_loss(Config.fromfile(file, import_custom_modules=False), 'brs')
        except (SwapError, FileNotFoundError) as error:
            failed += 1
            yield f'{file.relative_to(CONFIGS)}: {error}'
    yield f'{len(counted) - failed} of {len(counted)} configs are converted'


def left_out(rows: list[dict[str, str]]) -> str:
    """The configs that are not counted, by the reason, as a table of a page."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row['counted'] != COUNTED:
            reasons.setdefault(row['counted'], []).append(row['config'])
    lines = ['| not counted | number | configs |', '|---|---|---|']
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        lines.append(f'| {reason.split(": ", 1)[1]} | {len(names)} | {_code(names)} |')
    return '\n'.join(lines)


def heads_table() -> str:
    """What every registered recipe replaces, and what it changes: two tables of a page that a click opens."""
    heads = ["| role | MMDetection's head | ranking head |", '|---|---|---|']
    settings: dict[str, tuple[dict[str, None], dict[str, None]]] = {}  # a ranking head may replace several stock heads
    order = sorted(recipes().items(), key=lambda item: (list(Role).index(item[1].role), item[0].__name__))
    for stock, recipe in order:
        heads.append(f'| {recipe.role.value} | {_code([stock.__name__])} | {_code([recipe.head.__name__])} |')
        changes, unused = settings.setdefault(recipe.head.__name__, ({}, {}))
        changes |= dict.fromkeys(change for rule in recipe.rules for change in rule.changes)
        unused |= dict.fromkeys([*recipe.unused, *(key for rule in recipe.rules for key in rule.unused)])
    table = ['| ranking head | settings that change where needed | settings without effect |', '|---|---|---|']
    table += [
        f'| {_code([head])} | {_code(changes)} | {_code(unused)} |' for head, (changes, unused) in settings.items()
    ]
    folded = {'Heads that can be converted': heads, 'Settings that a swap changes, head by head': table}
    return '\n\n'.join(
        '\n'.join(['<details>', f'<summary>{summary}</summary>', '', *lines, '', '</details>'])
        for summary, lines in folded.items()
    )


def _code(names: Iterable[str]) -> str:
    return ', '.join(f'`{name}`' for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    parser.add_argument('families', nargs='*')
    parser.add_argument('--table', action='store_true', help='print the tables of a CSV that is there')
    parser.add_argument('--heads', action='store_true', help='print the table of the heads that can be converted')
    parser.add_argument('--left-out', action='store_true', help='print the table of the configs that are not counted')
    parser.add_argument('--converted', action='store_true', help='swap all configs without a training')
    args = parser.parse_args()
    if args.converted:
        for line in convert_all():
            sys.stdout.write(line + '\n')
        return
    if args.heads:
        sys.stdout.write(heads_table() + '\n')
        return
    if args.table or args.left_out:
        rows = read(args.out)
        parts = [left_out(rows)] if args.left_out else [summary(rows), table(rows), table_of_falls(rows)]
        sys.stdout.write('\n\n'.join(parts) + '\n')
        return
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    rows = {row['config']: row for row in read(args.out)} if args.out.exists() else {}
    for config in configs(*args.families):
        row = survey(config)
        rows[row['config']] = row
        write(args.out, [rows[name] for name in sorted(rows)])
        gc.collect()
        sys.stderr.write(' '.join([row['config'], row['outcome'], row['falls'], row['ap_falls'], '\n']))


def survey(file: Path) -> dict[str, str]:
    """The row of a config: three steps with BRS and three with AP Loss."""
    brs, falls = trained_and_falls(file, 'brs')
    ap, ap_falls = trained_and_falls(file, 'ap')
    about = (brs.detector, family_of(file), why_not_counted(file))
    values = (*about, brs.what, brs.detail, falls, ap.what, ap_falls)
    return dict(zip(COLUMNS, (str(file.relative_to(CONFIGS)), *values), strict=True))


def trained_and_falls(file: Path, loss: str) -> tuple[Outcome, str]:
    """What becomes of a config, and what falls: see :meth:`Outcome.falls`.

    If nothing falls in three steps, it is 'later' if something falls in ten at the full learning rate. A config that
    diverges is trained at the start of the warm-up. If it diverges there, too, it is trained for one step, and what
    falls is 'diverges'.
    """
    for warm_up in (_WARM_UP, _START_OF_WARM_UP):
        result = outcome(file, loss, STEPS, warm_up)
        if not result.diverged:
            break
    else:
        result = outcome(file, loss, 1)
        return result, 'diverges' if result.what == TRAINED else ''
    falls = result.falls()
    if falls == 'no' and outcome(file, loss, MORE_STEPS, warm_up=1.0).falls() in ('yes', 'ranking'):
        falls = 'later'
    return result, falls


def read(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with table.open(newline='') as file:
        return list(csv.DictReader(file))


def write(table: Path, rows: list[dict[str, str]]) -> None:
    """Replace the rows of a CSV."""
    with table.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    main()
