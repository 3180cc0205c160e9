"""Runs one verb of the command line: python tests/run_verb.py VERB ARGUMENTS."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from bucketed_losses.errors import one_line_errors


def parse(verb: str, arguments: Sequence[object]) -> argparse.Namespace:
    module = import_module(f'bucketed_losses.cli.{verb}')
    parser = argparse.ArgumentParser(verb, description=module.HELP)
    module.add_arguments(parser)
    return parser.parse_args(list(map(str, arguments)))


def run_verb(verb: str, *arguments: object) -> None:
    import_module(f'bucketed_losses.cli.{verb}').run(parse(verb, arguments))


if __name__ == '__main__':
    one_line_errors(run_verb)(*sys.argv[1:])
