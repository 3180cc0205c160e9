"""Execute the tutorials from top to bottom and store their outputs: ``make tutorials``.

    python tools/run_tutorials.py [NAME ...]

A tutorial is a notebook in docs/tutorials. It runs in an empty folder, with this Python and this clone, and is written
back with its new outputs. The site shows the stored outputs and executes nothing. NAME is the name of a file without
``.ipynb``; all tutorials are executed by default.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from _this_package import with_this_package
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'docs/tutorials'
TIMEOUT = 1200  # seconds for one cell


def with_fewer_colours(png: str) -> str:
    """A PNG image with a palette of 256 colours, which is enough for a figure and half as large; both in base64."""
    small = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB').quantize(256).save(small, 'PNG', optimize=True)
    return base64.b64encode(small.getvalue()).decode() + '\n'


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Execute a copy of a notebook in a folder.

    Args:
        notebook: The notebook; it is not changed.
        folder: The working directory. The commands of this Python's environment and this clone are found there.

    Returns:
        The notebook with the outputs of this execution, and without the times at which cells ran.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell has failed.
    """
    done = nbformat.from_dict(notebook)
    environment = {
        **os.environ,
        'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')]),
        **with_this_package(),
    }
    client = NotebookClient(
        done,
        timeout=TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=['--log-level=ERROR'],  # of the kernel, which warns of its TCP ports
        resources={'metadata': {'path': str(folder)}},
    )
    client.execute(env=environment)
    for cell in done.cells:
        for output in cell.get('outputs', ()):
            if png := output.get('data', {}).get('image/png'):
                output.data['image/png'] = with_fewer_colours(png)
    done.metadata = nbformat.from_dict(notebook.metadata)  # no version of this Python
    return done


def main(argv: Sequence[str] | None = None) -> None:
    names = sorted(path.stem for path in FOLDER.glob('*.ipynb'))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'execute these only: {", ".join(names)}')
    chosen = parser.parse_args(argv).names or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f'there is no tutorial {", ".join(unknown)}; choose from {", ".join(names)}')
    for name in chosen:
        path, started = FOLDER / f'{name}.ipynb', time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            done = execute(nbformat.read(path, as_version=4), Path(folder))
        nbformat.write(done, path)
        print(f'{name}: {time.monotonic() - started:.0f} s, the outputs are in {path.relative_to(ROOT)}', flush=True)


if __name__ == '__main__':
    main()
