"""The command ``bucketed-losses``: its verbs, what each of them needs, and how one of them is run.

Only the module of the verb that is called is imported, so that ``bucketed-losses --help`` is fast and needs no torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from ..errors import one_line_errors
from ..library_warnings import hide_harmless_warnings
from ..terminal import set_quiet
from ..version import __version__
from ._requirements import DEMO, MMDET, NOTHING, STUDY, TABLES, Requirements, require


class Verb(NamedTuple):
    """One verb of the command line.

    Attributes:
        module: The name of its module in :mod:`bucketed_losses.cli`.
        help: What it does, in one line.
        needs: What must be installed besides this package.
    """

    module: str
    help: str
    needs: Requirements


VERBS = {
    'demo': Verb('demo', 'train a small detector on drawn shapes and draw what it detects', DEMO),
    'swap': Verb('swap', 'put a ranking loss into a config of MMDetection', MMDET),
    'compare': Verb('compare', 'train a detector with one loss after another and compare them', STUDY),
    'reproduce': Verb('reproduce', 'train a row of the paper and compare the result with it', MMDET),
    'summarize': Verb('summarize', 'print a table of the AP of training runs', TABLES),
    'plot-curves': Verb('plot_curves', 'draw the losses and the AP of training runs', TABLES),
    'plot-ranks': Verb('plot_ranks', 'draw how a detector ranks the predictions of one training batch', MMDET),
    'gradient-shares': Verb(
        'gradient_shares', 'print how each loss divides its gradient between positives and negatives', STUDY
    ),
    'calibrate': Verb('calibrate', 'map the scores of a trained detector to precisions', MMDET),
    'convert': Verb('convert', 'convert a checkpoint of the published code or of Co-DETR', MMDET),
    'convert-data': Verb('convert_data', 'convert a public data set to the files that the small configs read', MMDET),
    'shapes': Verb('shapes', 'make the data set of drawn shapes', MMDET),
    'doctor': Verb('doctor', 'check the environment and print the commands that fix it', NOTHING),
}


def build_parser(called: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        called: The verb whose arguments are added; the parser knows only the names of the other verbs.

    Raises:
        UserError: The verb needs a package that is not installed.
    """
    parser = argparse.ArgumentParser('bucketed-losses', description='Ranking-based losses for object detectors.')
    parser.epilog = '"bucketed-losses VERB --help" describes the options of a verb.'
    parser.add_argument('--version', action='version', version=__version__, help='print the version and exit')
    choices = parser.add_subparsers(title='verbs', metavar='VERB', required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--quiet', action='store_true', help='print results, warnings and errors only')
    common.add_argument('--debug', action='store_true', help='show the traceback of an error')
    some_lack = False
    for name, verb in VERBS.items():
        if name != called:
            lacks = called not in VERBS and verb.needs.missing()  # shown in the list of verbs only
            choices.add_parser(name, help=f'{verb.help} [{verb.needs.label}]' if lacks else verb.help)
            some_lack |= bool(lacks)
            continue
        require(verb.needs)
        module = import_module(f'.{verb.module}', __package__)
        # A verb whose own arguments contain one of the common ones overrides it.
        chosen = choices.add_parser(name, description=module.HELP, parents=[common], conflict_handler='resolve')
        module.add_arguments(chosen)
        chosen.set_defaults(run_verb=module.run)
    if some_lack:
        parser.epilog += (
            ' Verbs with the name of an extra in brackets need packages that are not installed. If you call such a '
            'verb, it says what to install.'
        )
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb.

    Args:
        argv: The verb and its arguments; by default those of the process.
    """
    hide_harmless_warnings()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(arguments[0] if arguments else None).parse_args(arguments)
    set_quiet(args.quiet)
    args.run_verb(args)
