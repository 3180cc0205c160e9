"""``bucketed-losses reproduce``: train a row of the paper, and compare the result with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from bucketed_losses.errors import UserError
from bucketed_losses.reproduce.job import LAUNCHERS, Job
from bucketed_losses.reproduce.outcome import Outcome, read_outcome
from bucketed_losses.reproduce.rows import Row, read_row, row_configs
from bucketed_losses.reproduce.tables import compare, describe, list_rows, results

from ._arguments import Values, add_cfg_options, add_out

HELP = "Train a row of the paper's tables, and compare its AP and its seconds per iteration with the paper's."
DESCRIPTION = """
    bucketed-losses reproduce --list                     what each row needs, and what the paper has
    bucketed-losses reproduce ROW --dry-run              the job of a row, without starting it
    bucketed-losses reproduce ROW --launcher pytorch     train it on this machine
    bucketed-losses reproduce ROW --launcher slurm --partition NAME
    bucketed-losses reproduce ROW --report               the result so far, compared with the paper's
    bucketed-losses reproduce --report                   all results, in the layout of the paper's tables

By default, a row is trained on as many GPUs as the paper used. With another number, the learning rate is scaled by the
linear rule, and a line says so. The same command goes on with a training that was stopped; if the training is finished,
the command prints the result.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.description = f'{HELP}\n{DESCRIPTION}'
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('row', nargs='?', metavar='ROW', help='the name of a row, as --list shows it')
    parser.add_argument('--list', action='store_true', help='print all rows as a table in Markdown')
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        default='none',
        help='start one process (none), torchrun on this machine (pytorch), or a Slurm job (slurm) (default: none)',
    )
    parser.add_argument(
        '--gpus',
        type=int,
        metavar='N',
        help="train on N GPUs (default: the paper's number; 1 with --launcher none)",
    )
    parser.add_argument(
        '--gpus-per-node', type=int, default=8, metavar='N', help='take at most N GPUs of a Slurm node (default: 8)'
    )
    parser.add_argument('--partition', metavar='NAME', help='submit to this Slurm partition')
    parser.add_argument(
        '--sbatch',
        nargs='+',
        action=Values,
        default=[],
        metavar='KEY=VALUE',
        help='add options of sbatch to the batch script: time=24:00:00 account=NAME',
    )
    parser.add_argument('--data-root', type=Path, metavar='FOLDER', help='read the data set from this folder')
    add_out(
        parser,
        'keep the work directories of the rows in this folder (default: work_dirs/reproduce)',
        default=Path('work_dirs/reproduce'),
        metavar='FOLDER',
    )
    add_cfg_options(parser, 'change settings of the config')
    parser.add_argument('--dry-run', action='store_true', help='print the job without starting it')
    parser.add_argument('--report', action='store_true', help='print results without training')


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    options = [*([f'data_root={args.data_root}'] if args.data_root else []), *args.cfg_options]
    if args.list:
        print(list_rows(read_row(config) for config in row_configs()))
    elif args.row is None and args.report:
        print(results(_runs(args.out, options)))
    elif args.row is None:
        raise UserError('name a ROW; --list shows all of them')
    elif args.report:
        row = read_row(args.row, options)
        if (outcome := read_outcome(args.out / row.name)) is None:
            raise UserError(f'{args.out / row.name} has no evaluated epoch yet; without --report, the row is trained')
        print(compare(row, outcome))
    else:
        row = read_row(args.row, options)
        gpus = args.gpus if args.gpus is not None else 1 if args.launcher == 'none' else row.gpus
        work_dir = args.out / row.name
        _train(
            Job(row, args.launcher, gpus, work_dir, options, args.gpus_per_node, args.partition, args.sbatch),
            args.dry_run,
        )


def _runs(out: Path, options: list[str]) -> dict[Row, Outcome]:
    found: dict[Row, Outcome] = {}
    for config in row_configs():
        if outcome := read_outcome(out / Path(config).name):
            found[read_row(config, options)] = outcome
    if not found:
        raise UserError(f'{out} has no run of a row with an evaluated epoch; --out names another folder')
    return found


def _train(job: Job, dry_run: bool) -> None:
    print(describe(job), flush=True)
    if dry_run:
        print(job.shown)
        return
    outcome = read_outcome(job.work_dir)
    if outcome is None or outcome.epochs < job.row.epochs:
        job.run()
        outcome = read_outcome(job.work_dir)
    if job.launcher == 'slurm' and (outcome is None or outcome.epochs < job.row.epochs):
        print('submitted; when the job has ended, the same command with --report shows its result')
    elif outcome is not None:
        print(compare(job.row, outcome))
