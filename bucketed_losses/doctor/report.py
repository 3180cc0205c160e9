"""The report as text, and the command line that prints it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from .checks import run_checks_here
from .diagnosis import Finding, diagnose
from .facts import Facts, stack
from .gather import gather


def render(facts: Facts, findings: Sequence[Finding], colours: bool = False) -> str:
    """The report as text."""

    def bold(text: str, colour: str = '1') -> str:
        return f'\033[{colour}m{text}\033[0m' if colours else text

    rows = {
        'Python': f'{facts.python}  {facts.executable}',
        'system': facts.system,
        'stack': stack(facts),
        'CUDA of torch': facts.cuda or 'none',
        'GPU': facts.gpu or 'none that torch can use',
        **facts.versions,
    }
    sections = [('Environment', rows), ('Checks', facts.checks)]
    lines = []
    for title, section in sections:
        lines += [bold(title), *(f'  {name:24}{value}' for name, value in section.items()), ''] if section else []
    for title, colour, kind in (('Problems', '1;31', True), ('Notes', '1', False)):
        of_kind = [finding for finding in findings if finding.problem is kind]
        lines += [bold(title, colour)] if of_kind else []
        for index, finding in enumerate(of_kind, 1):
            lines += [f'  {index}. {finding.what}', f'     {finding.why}']
            lines += [f'     {"or: " if later else "fix:"} {command}' for later, command in enumerate(finding.commands)]
        lines += [''] if of_kind else []
    problems = sum(finding.problem for finding in findings)
    lines.append(bold(f'Problems: {problems}', '1;31' if problems else '1;32'))
    return '\n'.join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the report."""
    parser.add_argument('--json', action='store_true', help='print the report as JSON')
    parser.add_argument('--run-checks', nargs='+', help=argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; the exit code is 0 without problems and 1 with problems."""
    parser = argparse.ArgumentParser(
        'python -m bucketed_losses.doctor',
        description='Report on the environment: versions, traps of the OpenMMLab packages, and whether losses and '
        'operators run.',
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Print the report that the options ask for, and return the exit code."""
    if args.run_checks:
        run_checks_here(args.run_checks)
        return 0
    facts = gather()
    findings = diagnose(facts)
    report = {'stack': stack(facts), 'facts': asdict(facts), 'findings': [asdict(finding) for finding in findings]}
    colours = sys.stdout.isatty() and 'NO_COLOR' not in os.environ
    print(json.dumps(report, indent=2) if args.json else render(facts, findings, colours))  # noqa: T201
    return int(any(finding.problem for finding in findings))
