"""How tests run and install the command ``bucketed-losses``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bucketed_losses.cli.main import VERBS, build_parser

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def command(name, *arguments):
    """The command, for another process, of a verb or of ``tools/NAME.py``."""
    program = ['-m', 'bucketed_losses', name] if name in VERBS else [str(TOOLS / f'{name}.py')]
    return [sys.executable, *program, *map(str, arguments)]


def parse(name, arguments):
    """The parsed arguments of a verb."""
    return build_parser(name).parse_args([name, *map(str, arguments)])


def run_verb(name, *arguments):
    """Run a verb in this process. Its errors are raised as they are, not printed."""
    args = parse(name, arguments)
    args.run_verb(args)


def install_wheel(wheel: Path, python: Path) -> None:
    """Install the wheel into another environment, which has no pip."""
    install = [sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-index']
    subprocess.run([*install, '--ignore-installed', wheel], check=True, capture_output=True)
