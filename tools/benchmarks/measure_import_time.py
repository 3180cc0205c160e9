"""Compare the time of importing the torch-only part with the time of importing torch, in processes of their own.

python tools/benchmarks/measure_import_time.py [--repeats 10]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    'torch': 'import torch',
    'bucketed_losses': 'import bucketed_losses',
    'bucketed_losses.functional': 'import bucketed_losses.functional',
    'bucketed_losses.modules': 'import bucketed_losses.modules',
}


def seconds(program: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, '-c', program], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=10, help='number of processes for each import')
    args = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for program in PROGRAMS.values():
        seconds(program)  # files are read from the disk once
    for _ in range(args.repeats):
        for name, program in PROGRAMS.items():
            times[name].append(seconds(program))
    base = statistics.median(times['torch'])
    for name, values in times.items():
        median = statistics.median(values)
        print(f'{name:28} {median:6.2f} s   {median / base:5.2f} x import torch')


if __name__ == '__main__':
    main()
