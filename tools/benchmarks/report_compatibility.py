"""Write the compatibility page from the records of test runs.

make test STACK=openmmlab RECORD=docs/compatibility/openmmlab.json
make test-stack STACK=torch-oldest RECORD=docs/compatibility/torch-oldest.json
python tools/benchmarks/report_compatibility.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of setup_env.py
from setup_env import ROOT, read_stacks

BEGIN, END = '<!-- begin: tools/benchmarks/report_compatibility.py -->', '<!-- end -->'
SELECTIONS = {'not slow and not slurm': 'all', 'stack and not slow': 'stack'}


def table(records: list[dict]) -> str:
    """The records as a Markdown table, in the order of requirements/stacks.ini."""
    stacks = read_stacks()
    lines = [
        '| stack | what it is | versions | tests | passed | failed | skipped | date |',
        '|---|---|---|---|---:|---:|---:|---:|',
    ]
    order = {name: number for number, name in enumerate(stacks.sections())}
    for record in sorted(records, key=lambda record: (order[record['stack']], record['versions']['Python'])):
        versions = ', '.join(f'{name} {version}' for name, version in record['versions'].items())
        cells = [
            f'`{record["stack"]}`',
            stacks[record['stack']]['about'],
            versions,
            SELECTIONS[record['selection']],
            record['passed'],
            record['failed'] + record['error'],
            record['skipped'],
            record['date'],
        ]
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


def page(text: str, records: list[dict]) -> str:
    """The page with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f'{before}{BEGIN}\n{table(records)}\n{END}{after}'


def read_records() -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((ROOT / 'docs/compatibility').glob('*.json'))]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    records = read_records()
    if not records:
        raise SystemExit(
            'report_compatibility: docs/compatibility/ contains no records. Make one first: '
            'make test STACK=current RECORD=docs/compatibility/current.json'
        )
    path = ROOT / 'docs/compatibility.md'
    path.write_text(page(path.read_text(), records))
    print(f'{path.relative_to(ROOT)} is up to date')


if __name__ == '__main__':
    main()
