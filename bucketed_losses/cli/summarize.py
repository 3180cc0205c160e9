"""``bucketed-losses summarize``: a table of finished runs."""

from __future__ import annotations

import argparse

HELP = 'Print a table of finished runs: AP, AP50 and AP75 of the last epoch, and AP per class; mean over seeds.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.description = (
        f'{HELP} The table is written in Markdown. Runs with masks have the same columns for masks. Their AP per class '
        'is that of the masks, because MMDetection logs no other.'
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='NAME=WORK_DIR[,WORK_DIR...]',
        help='a name for the row, and the work directory of each seed',
    )


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from bucketed_losses.study.logs import parse_runs
    from bucketed_losses.study.summary import summarize

    print(summarize(parse_runs(args.runs)))
