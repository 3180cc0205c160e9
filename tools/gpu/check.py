"""Tests and measures the losses on this machine's GPU, in less than 8 minutes, and writes one folder.

python tools/gpu/check.py [--out work_dirs/gpu] [--device cuda] [--minutes 7.5] [--processes N]

Python, torch and pytest suffice; nothing is downloaded. The folder has gpu.md (a summary), benchmark.csv,
benchmark.png (if matplotlib is installed), tests.txt and environment.txt. If MMDetection is installed, the demo trains
for 400 iterations, and each kind of detector takes training steps with its own loss and with BRS Loss, in mixed
precision, on all GPUs with NCCL; the folder then also has families.csv and training.txt. ``--device cpu`` runs
everything on a CPU, to test this command, and each detector takes two steps with BRS Loss alone.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

if find_spec('torch') is None:
    print(f'torch is not installed for {sys.executable}; set PYTHON to an interpreter with torch, or run make setup')
    sys.exit(2)

import family_table
import torch
from _this_package import with_this_package
from drawing import draw_times
from measure import COLUMNS, SIZES, measure
from tables import markdown, read_csv
from training import Outcome, check_training, is_possible

ROOT = Path(__file__).resolve().parents[2]
MOST_CHARACTERS = 50_000
"""Of the output of a training; the end of it is kept."""
SHARE_OF_TESTS, SHARE_OF_MEASUREMENTS = 0.35, 0.25
"""Shares of the time that the tests and the measurements may take; training takes the rest. Without MMDetection, the
measurements take the rest."""


def environment(device: torch.device) -> str:
    """Versions, and what the driver says."""
    lines = [
        f'date {time.strftime("%Y-%m-%d", time.gmtime())}',
        f'Python {platform.python_version()}, {platform.platform()}',
        f'torch {torch.__version__}, CUDA {torch.version.cuda}',
        f'device {torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"}',
    ]
    if shutil.which('nvidia-smi'):
        query = ['nvidia-smi', '--query-gpu=name,driver_version,memory.total,clocks.max.sm', '--format=csv']
        lines.append(subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
    return '\n'.join(lines) + '\n'


def run_tests(device: torch.device, tests: list[str], seconds: float) -> tuple[int, str]:
    """Exit code and output of pytest; the code is 124 if the time was not enough."""
    options = ['-q', '-m', 'gpu', '-p', 'no:cacheprovider', '--tb=short']
    if all(test.startswith('tests/core') for test in tests):
        options.append('--noconftest')  # the tests' conftest.py needs more packages than pytest
    variables = os.environ | {'LOSSES_DEVICE': device.type} | with_this_package()
    command = [sys.executable, '-m', 'pytest', *options, *tests]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=max(seconds, 1)
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ''
        return 124, f'{output}\nstopped after {seconds:.0f} seconds\n'
    return done.returncode, done.stdout + done.stderr


def draw(rows: list[dict[str, Any]], path: Path) -> str:
    """Time over logits; returns what became of the figure."""
    if find_spec('matplotlib') is None:
        return 'no figure: matplotlib is not installed'
    draw_times(rows, path)
    return f'figure: {path.name}'


def summary(
    text: str,
    tests: str,
    training: list[Outcome],
    families: list[dict[str, str]],
    rows: list[dict[str, Any]],
    figure: str,
    device: torch.device,
) -> str:
    """gpu.md."""
    launches = 'kernels and copies, by the profiler' if device.type == 'cuda' else 'operations (no GPU)'
    lines = ['# The losses on a GPU' if device.type == 'cuda' else '# A trial run on a CPU: no figure of a GPU', '']
    lines += ['```', text.strip(), '```', '', '## Tests', '', f'* core: {tests}', '']
    if training:
        lines += ['## Training with MMDetection', '']
        lines += [
            f'* {part.name}: {part.line}{" (failed, see training.txt)" if part.failed else ""}' for part in training
        ]
        lines += ['']
    if families:
        lines += [markdown(family_table.COLUMNS, family_table.family_table(families)), '']
    lines += ['## Forward and backward, positives given', '', f'Launches are {launches}. {figure}.', '']
    lines += [markdown(COLUMNS, ([row.get(column, '') for column in COLUMNS] for row in rows))]
    return '\n'.join(lines) + '\n'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu'), help='folder to write to')
    parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'], help='cpu: a trial without a GPU')
    parser.add_argument('--minutes', type=float, default=7.5, help='when to stop')
    parser.add_argument('--tests', nargs='+', default=['tests/core/test_gpu.py'], help='tests to run')
    parser.add_argument('--processes', type=int, metavar='N', help='train on N processes; default: one per GPU')
    parser.add_argument('--families', nargs='+', metavar='NAME', help='kinds of detectors to train; default: all')
    parser.add_argument('--no-training', action='store_true', help='leave out what needs MMDetection')
    parser.add_argument('--sizes', type=int, nargs='+', help='numbers of logits, 1 %% of them positive')
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        print(f'torch {torch.__version__} sees no CUDA device; --device cpu tries this command without one')
        return 2
    start = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'families.csv').unlink(missing_ok=True)
    text = environment(device)
    (args.out / 'environment.txt').write_text(text)
    print(text, flush=True)

    seconds = 60 * args.minutes
    code, output = run_tests(device, args.tests, SHARE_OF_TESTS * seconds)
    (args.out / 'tests.txt').write_text(output)
    tests = output.strip().splitlines()[-1] if output.strip() else 'no output'
    failed = ['tests.txt'] if code != 0 else []
    print(f'{output}\ncore: failed' if failed else f'core: {tests}', flush=True)

    trains = is_possible() and not args.no_training
    end_of_measurements = (SHARE_OF_TESTS + SHARE_OF_MEASUREMENTS) * seconds if trains else seconds - 15
    sizes = [(number, max(number // 100, 1)) for number in args.sizes] if args.sizes else SIZES
    rows: list[dict[str, Any]] = []
    with (args.out / 'benchmark.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, restval='')
        writer.writeheader()
        for row in measure(device, sizes, 20, start + end_of_measurements):
            rows.append(row)
            writer.writerow(row)
            file.flush()
            print(*(row.get(column, '-') for column in COLUMNS), flush=True)
    figure = draw(rows, args.out / 'benchmark.png')

    training: list[Outcome] = []
    if trains:
        processes = args.processes or (torch.cuda.device_count() if device.type == 'cuda' else 1)
        left = seconds - 10 - (time.monotonic() - start)
        training = check_training(args.out, device.type == 'cuda', processes, args.families or [], left)
        ends = [f'{part.name}\n{part.output[-MOST_CHARACTERS:]}' for part in training]
        (args.out / 'training.txt').write_text('\n\n'.join(ends))
        for part in training:
            print(f'{part.output}\n{part.name}: failed' if part.failed else f'{part.name}: {part.line}', flush=True)
        failed += ['training.txt'] if any(part.failed for part in training) else []
    steps = args.out / 'families.csv'
    families = read_csv(steps) if trains and steps.is_file() else []
    (args.out / 'gpu.md').write_text(summary(text, tests, training, families, rows, figure, device))
    print(f'wrote {args.out}' + (f'; something failed, see {" and ".join(failed)}' if failed else ''))
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
