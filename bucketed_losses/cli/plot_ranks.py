"""Draw the ranking of one batch: logits over ranks, and the buckets that the negatives fall into (the paper's Fig. 1).

bucketed-losses plot-ranks CONFIG CHECKPOINT --out OUT.png [--force] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper

from bucketed_losses.errors import UserError
from bucketed_losses.figure_style import (
    IOU_MAP,
    NEGATIVES,
    QUIET,
    check_picture,
    figure_style,
    name_of_place,
    new_figure,
    save,
)
from bucketed_losses.mmdet.engine import check_checkpoint
from bucketed_losses.mmdet.evaluation.ranked_batch import RankedBatch, watch_ranking_losses

from ._arguments import add_force, add_out, refuse_to_overwrite
from ._progress import hide_log_lines
from ._runner import add_common_arguments, load_config, runner_from

_ERRORS = {'loss_rank': 'ranking error', 'loss_sort': 'sorting error'}
HELP = 'Draw the ranking of one training batch: ranks and logits of the positives, and the buckets of the negatives.'


def rank_order(batch: RankedBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits from the highest down, with ignored ones left out; their targets; the bucket of each.

    A bucket contains the negatives between two neighbouring positives. Its number is the number of positives above it.
    A negative with the logit of a positive comes before it, as the bucketed losses rank it.
    """
    taking_part = batch.targets >= 0
    logits = batch.logits[taking_part].double().cpu()
    targets = batch.targets[taking_part].cpu()
    order = torch.from_numpy(np.lexsort((targets > 0, -logits)))
    sorted_targets = targets[order].numpy()
    return logits[order].numpy(), sorted_targets, np.cumsum(sorted_targets > 0)


@figure_style()
def draw(batches: list[RankedBatch], out: str | Path) -> None:
    """Two panels for each loss: logits over ranks with the positives coloured by their IoU, and the buckets' sizes."""
    figure, axes = new_figure(len(batches), 2, (10.5, 3.6 * len(batches)), width_ratios=[2, 1])
    for (left, right), batch in zip(axes, batches, strict=True):
        logits, targets, bucket = rank_order(batch)
        ranks = np.arange(1, len(logits) + 1)
        positive = targets > 0
        left.plot(ranks, logits, color=QUIET, linewidth=4, zorder=2)
        dots = left.scatter(
            ranks[positive], logits[positive], c=targets[positive], cmap=IOU_MAP, vmin=0, vmax=1, s=18, zorder=3
        )
        figure.colorbar(dots, ax=left, label='IoU of the positive').ax.grid(visible=False)
        errors = ', '.join(f'{_ERRORS.get(name, name)} {value.item():.3f}' for name, value in batch.errors.items())
        left.set(
            xscale='log',
            xlabel='rank (1: the highest logit)',
            ylabel='logit',
            title=f'{name_of_place(batch.name)}: {errors}',
        )
        text = f'dots: {positive.sum():,} positives\ngrey line: all, with {(~positive).sum():,} negatives'
        left.annotate(text, (0.03, 0.06), xycoords='axes fraction', va='bottom')
        sizes = np.bincount(bucket[~positive], minlength=int(positive.sum()) + 1)
        right.bar(np.arange(len(sizes)), sizes, width=1.0, color=NEGATIVES, zorder=3)
        right.set(
            yscale='symlog',
            xlabel='bucket: number of positives above it',
            ylabel='negatives in the bucket',
            title='buckets between positives',
        )
    save(figure, out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='the config of the detector, with a ranking loss')
    parser.add_argument('checkpoint', help='its checkpoint')
    add_out(parser, 'write the figure to this PNG file', required=True, metavar='OUT.png')
    add_force(parser)
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    refuse_to_overwrite(args.out, force=args.force)
    cfg = load_config(args)
    check_checkpoint(args.checkpoint)
    check_picture(args.out)
    cfg.load_from, cfg.resume = args.checkpoint, False
    hide_log_lines(cfg)
    runner = runner_from(cfg, ['train_dataloader'])
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    batches: list[RankedBatch] = []
    with watch_ranking_losses(model, batches.append) as names:
        if not names:
            raise UserError(f'{args.config} has no ranking loss; add one with bucketed-losses swap')
        loader = runner.build_dataloader(cfg.train_dataloader, seed=cfg.get('randomness', {}).get('seed', 0))
        runner.load_or_resume()
        model.train()
        with torch.no_grad():
            data = model.data_preprocessor(next(iter(loader)), True)
            model(**data, mode='loss')
    if not is_main_process():
        return
    batches = [batch for batch in batches if (batch.targets > 0).any()]
    if not batches:
        raise UserError('the batch has no positives; choose another batch, e.g. with --cfg-options randomness.seed=1')
    draw(batches, args.out)
    print(f'{len(batches)} rankings are in {args.out}')
