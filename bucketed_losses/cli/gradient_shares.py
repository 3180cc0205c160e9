"""``bucketed-losses gradient-shares``: how each loss shares its gradient between positives and negatives."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._arguments import add_cfg_options

HELP = 'Measure how each loss shares its gradient between positives and negatives, on the same logits of a detector.'
DESCRIPTION = """
The logits, targets and IoUs are those that the ranking losses of CONFIG are given on its first training batches, with
the weights of each CHECKPOINT. The table shows the share of the gradient (sum of absolute values over logits) that
falls on positives, as the mean over batches. The checkpoints may come from a training with another loss, if the
classifier has the same shape.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.description = f'{HELP} {DESCRIPTION}'
    parser.add_argument('config', help="a config with a ranking loss; 'swap' puts one into any other config")
    parser.add_argument(
        'checkpoints', nargs='+', metavar='CHECKPOINT', help='checkpoints, e.g. early, middle and late in a run'
    )
    parser.add_argument('--batches', type=int, default=4, metavar='N', help='read N training batches (default: 4)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the results to this file')
    add_cfg_options(parser, 'override settings of the config')


def run(args: argparse.Namespace) -> None:
    """Print a table for each checkpoint."""
    from bucketed_losses.mmdet.engine.runner import parse_options
    from bucketed_losses.study.gradient_shares import LOSSES, measure_shares
    from bucketed_losses.study.store import write_json

    records = []
    folder = str(args.json.parent) if args.json else 'work_dirs/gradient_shares'
    options = parse_options(args.cfg_options)
    for record in measure_shares(args.config, args.checkpoints, args.batches, options, folder):
        records.append(record)
        print(f'\n{record["checkpoint"]}\n\n| ranked by | positives : negatives | ' + ' | '.join(LOSSES) + ' |')
        print('|---' * (2 + len(LOSSES)) + '|')
        for name, found in record['losses'].items():
            ratio = f'1 : {found["negatives"] / found["positives"]:.0f}'
            print(f'| {name} | {ratio} | ' + ' | '.join(f'{share:.3f}' for share in found['shares'].values()) + ' |')
    if args.json:
        write_json(args.json, records)
