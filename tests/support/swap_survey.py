"""What becomes of MMDetection's own configs when a ranking loss is put into them: one training step, or a refusal.

python tests/support/swap_survey.py OUT.csv [FAMILY ...]      train
python tests/support/swap_survey.py OUT.csv --table           print the table of outcomes for the docs
python tests/support/swap_survey.py OUT.csv --heads           print the table of heads for the docs
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

import torch
import torch.distributed as dist
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmengine.utils import get_installed_path

from bucketed_losses.mmdet.models.losses import RankingLoss
from bucketed_losses.mmdet.models.recipes import Role, recipes
from bucketed_losses.mmdet.swap import SwapError, swap_loss

CONFIGS = Path(get_installed_path('mmdet'), '.mim', 'configs')
# The detectors of the paper, by what their configs call them.
SEVEN = ('FasterRCNN', 'CascadeRCNN', 'MaskRCNN', 'ATSS', 'PAA', 'RetinaNet', 'CoDETR')
TRAINED, REFUSED, FAILED = 'trained', 'refused', 'failed'


def configs(*families: str) -> list[Path]:
    """MMDetection's configs, of some folders or of all."""
    folders = [CONFIGS / family for family in families] or sorted(CONFIGS.iterdir())
    return [file for folder in folders if folder.name != '_base_' for file in sorted(folder.glob('*.py'))]


def outcome(file: Path, loss: str = 'brs') -> tuple[str, str, str]:
    """The detector's type, what became of the config, and why or what its losses are."""
    try:
        cfg = Config.fromfile(file, import_custom_modules=False)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the outcome)
        return '?', FAILED, f'cannot be read: {type(error).__name__}: {_first_line(error)}'
    kind = str(cfg.get('model', {}).get('type', 'none'))
    try:
        swapped = swap_loss(cfg, loss).cfg
    except SwapError as error:
        return kind, REFUSED, str(error)
    try:
        return kind, TRAINED, ' '.join(train_one_step(swapped))
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the outcome)
        return kind, FAILED, f'{type(error).__name__}: {_first_line(error)}'


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else ''


def train_one_step(cfg: Config) -> list[str]:
    """Build the detector with its optimiser, train it on two small images of noise; the names of its losses."""
    init_default_scope('mmdet')
    with group_of_one():
        return _train_one_step(cfg)


@contextmanager
def group_of_one() -> Iterator[None]:
    """MMCV's synchronised norms ask for a process group when they are built."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group('gloo', init_method=Path(folder, 'group').as_uri(), rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _train_one_step(cfg: Config) -> list[str]:
    model_cfg = cfg.model
    without_downloads(model_cfg)
    # Fixed sizes of 1024 pixels and the like: these images are small.
    model_cfg.get('data_preprocessor', {}).pop('batch_augments', None)
    if 'teacher_config' in model_cfg:  # of LD: a path in a checkout of MMDetection, and a checkpoint in the network
        model_cfg.teacher_config = str(CONFIGS / Path(model_cfg.teacher_config).relative_to('configs'))
        model_cfg.teacher_ckpt = None
    # As many proposals as small images need.
    if 'rpn_proposal' in (model_cfg.get('train_cfg') or {}):
        model_cfg.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=100)
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info('epoch', 0)  # a runner counts epochs, and TOOD reads it
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    assert any(isinstance(module, RankingLoss) for module in model.modules())
    model.init_weights()
    model.train()
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # float16 needs an accelerator
        cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    head = model_cfg.get('roi_head', {})
    inputs = demo_mm_inputs(
        2,
        [[3, 128, 128], [3, 128, 96]],
        num_items=[3, 2],
        num_classes=2,
        with_mask=bool(head.get('mask_head')) or 'segm' in str(cfg.get('val_evaluator')),
        with_semantic='semantic_head' in model_cfg,
    )
    for sample in inputs['data_samples']:
        sample.gt_instances.labels.zero_()  # the one class that every detector knows
        boxes = sample.gt_instances.bboxes
        sample.proposals = InstanceData(bboxes=torch.cat([boxes, boxes + 8]))  # Fast R-CNN reads them
    logged = model.train_step(inputs, optim_wrapper)
    losses = {name: value for name, value in logged.items() if 'loss' in name}
    assert all(torch.isfinite(value).all() for value in losses.values()), losses
    assert any(name.endswith(('_rank', 'loss_cls', 'rpn_cls')) for name in losses), losses
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    return sorted(losses)


def without_downloads(part: object) -> None:
    """Weights are drawn instead of downloaded."""
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


def table(rows: list[dict[str, str]]) -> str:
    """The outcomes by folder of configs as a table of a page; folders where all is refused are one row."""
    folders: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        folders.setdefault(row['config'].split('/')[0], []).append(row)
    lines = ['| configs of | all | train | refused | cannot run here |', '|---|---|---|---|---|']
    nothing: list[str] = []
    for folder, members in folders.items():
        counts = [sum(row['outcome'] == what for row in members) for what in (TRAINED, REFUSED, FAILED)]
        if counts[0] == 0 and counts[2] == 0:
            nothing += [folder] * len(members)
            continue
        lines.append(f'| `{folder}` | {len(members)} | ' + ' | '.join(map(str, counts)) + ' |')
    lines.append(f'| {len(set(nothing))} others | {len(nothing)} | 0 | {len(nothing)} | 0 |')
    return '\n'.join(lines)


def heads_table() -> str:
    """What every registered recipe replaces and changes: a table of a page, and one that a click opens."""
    heads = ["| role | MMDetection's head | ranking head |", '|---|---|---|']
    settings = ['| ranking head | settings that change where needed | settings without effect |', '|---|---|---|']
    order = sorted(recipes().items(), key=lambda item: (list(Role).index(item[1].role), item[0].__name__))
    for stock, recipe in order:
        changes = dict.fromkeys(change for rule in recipe.rules for change in rule.changes)
        ranking = _code([recipe.head.__name__])
        heads.append(f'| {recipe.role.value} | {_code([stock.__name__])} | {ranking} |')
        settings.append(f'| {ranking} | {_code(changes)} | {_code(recipe.unused)} |')
    summary = '<summary>Settings that a swap changes, head by head</summary>'
    return '\n'.join([*heads, '', '<details>', summary, '', *settings, '', '</details>'])


def _code(names: Iterable[str]) -> str:
    return ', '.join(f'`{name}`' for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    parser.add_argument('families', nargs='*')
    parser.add_argument('--table', action='store_true', help='print the table of a CSV that is there')
    parser.add_argument('--heads', action='store_true', help='print the table of the heads that can be converted')
    args = parser.parse_args()
    if args.heads:
        sys.stdout.write(heads_table() + '\n')
        return
    if args.table:
        with args.out.open(newline='') as file:
            sys.stdout.write(table(list(csv.DictReader(file))) + '\n')
        return
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    with args.out.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['config', 'detector', 'outcome', 'detail'])
        for config in configs(*args.families):
            row = [str(config.relative_to(CONFIGS)), *outcome(config)]
            writer.writerow(row)
            file.flush()
            gc.collect()
            sys.stderr.write(f'{row[0]}: {row[2]}\n')


if __name__ == '__main__':
    main()
