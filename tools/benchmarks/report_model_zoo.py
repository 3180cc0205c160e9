"""The page docs/model_zoo.md: every config of model-index.yml, with what the paper and this project measured.

python tools/benchmarks/report_model_zoo.py

Configs, collections, data and epochs come from model-index.yml, figures of the paper from
bucketed_losses/paper/tables.csv, and the name of each row from configs/README.md. A model of the index with results of
its own fills the column *ours*; all others are not trained by us.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmengine.fileio import load
from report_paper import ap_cell, seconds_cell

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/model_zoo.md'
BEGIN, END = '<!-- begin: tools/benchmarks/report_model_zoo.py -->', '<!-- end -->'
NOT_TRAINED = 'not trained by us'


def names_of_rows() -> dict[str, str]:
    """What the list of configs says of the row of every config, by its path."""
    rows = re.findall(r'^\| \[\S+\]\((\S+)\) \| (.+?) \|', (ROOT / 'configs/README.md').read_text(), re.MULTILINE)
    return {f'configs/{target}': row for target, row in rows}


def collections() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The collections of the index, each with its models."""
    found = []
    for file in load(ROOT / 'model-index.yml')['Import']:
        content = load(ROOT / file)
        for collection in content['Collections']:
            name = collection['Name']
            found.append((collection, [model for model in content['Models'] if model['In Collection'] == name]))
    return found


def ours(model: dict[str, Any]) -> str:
    """The results in the index, or that there are none."""
    metrics = [result['Metrics'] for result in model.get('Results', [])]
    return ', '.join(f'{name} {value}' for each in metrics for name, value in each.items()) or NOT_TRAINED


def tables() -> str:
    """A section with a table for each collection."""
    rows = names_of_rows()
    parts = []
    for collection, models in collections():
        data = collection['Metadata']['Training Data']
        parts.append(f'## {collection["Name"]}')
        parts.append(f'Data: {data if isinstance(data, str) else ", ".join(data)}.')
        lines = [
            "| config | epochs | row of the paper | AP (the paper's) | s/iter (the paper's) | AP (ours) |",
            '|---|---|---|---|---|---|',
        ]
        for model in models:
            config = model['Config'].removeprefix('configs/').removesuffix('.py')
            link = f'[{model["Name"]}](../{model["Config"]})'
            epochs = model.get('Metadata', {}).get('Epochs', '')
            figures = f'{ap_cell(config)} | {seconds_cell(config)}'
            lines.append(f'| {link} | {epochs} | {rows[model["Config"]]} | {figures} | {ours(model)} |')
        parts.append('\n'.join(lines))
    return '\n\n'.join(parts)


def page(text: str) -> str:
    """The page with what lies between its markers made anew."""
    before, rest = text.split(BEGIN)
    return f'{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}'


def main() -> None:
    PAGE.write_text(page(PAGE.read_text()))
    print(f'{PAGE.relative_to(ROOT)} is up to date')


if __name__ == '__main__':
    main()
