"""Report on the environment: versions, known problems, and whether losses and operators run.

bucketed-losses doctor [--json]

The same as ``python -m bucketed_losses.doctor``, which needs neither torch nor an installed package.
"""

from __future__ import annotations

import argparse

from .. import doctor

HELP = 'Check the environment and print a command that fixes each problem.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    doctor.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    raise SystemExit(doctor.run(args))
