"""``bucketed-losses plot-curves``: a figure of training curves."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Draw training curves from MMEngine's logs: losses over iterations, AP over epochs (mean and range of seeds)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.description = HELP
    parser.add_argument('out', type=Path, help='the PNG file to write the figure to')
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='NAME=WORK_DIR[,WORK_DIR...]',
        help='a name for the curve, and the work directory of each seed',
    )
    parser.add_argument('--ap-only', action='store_true', help='draw only the AP, without the losses')


def run(args: argparse.Namespace) -> None:
    """Write the figure."""
    from bucketed_losses.figure_style import check_picture
    from bucketed_losses.study.curves import plot_curves
    from bucketed_losses.study.logs import parse_runs

    check_picture(args.out)
    plot_curves(parse_runs(args.runs), args.out, args.ap_only)
    print(f'Curves are in {args.out}')
