"""Reading the logs of finished runs, for the tools that tabulate and draw them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RUN_METAVAR = 'NAME=WORK_DIR[,WORK_DIR...]'


def parse_run(text: str) -> tuple[str, list[str]]:
    """``NAME=DIR,DIR`` as a name and the work directories of its seeds; a bare directory is named after itself."""
    name, separator, work_dirs = text.partition('=')
    if not separator:
        return Path(text).name, [text]
    if not name or not work_dirs:
        raise argparse.ArgumentTypeError(f'a run is {RUN_METAVAR}, got {text}')
    return name, work_dirs.split(',')


def read_scalars(work_dir: str | Path) -> tuple[list[dict], list[dict]]:
    """Training and validation records of a work directory, resumed runs joined in order."""
    files = sorted(Path(work_dir).glob('**/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'no vis_data/scalars.json in {work_dir}: not a work directory of a training run')
    train: dict[int, dict] = {}
    val: dict[int, dict] = {}
    for file in files:
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                if number == len(lines):  # a killed run was writing it
                    break
                raise
            # A resumed run repeats what came after its checkpoint: the later record counts.
            (train if 'loss' in record else val)[record['step']] = record
    return [train[step] for step in sorted(train)], [val[step] for step in sorted(val)]
