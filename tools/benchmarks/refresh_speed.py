"""Measures everything on docs/speed.md again, on this machine, and rewrites its figures and tables.

python tools/benchmarks/refresh_speed.py [--docs docs] [--bccd FOLDER] [--work-dir work_dirs/speed]

Takes about an hour on 2 CPU cores, on which nothing else should run. The steps, each a command that is printed:

    1  train ATSS on BCCD for 4 epochs, for the captured logits       (only with --bccd)
    2  benchmark_losses.py --scaling, benchmark_losses.py --curve     figures/benchmark.csv, scaling.csv
    3  profile_loss_share.py, whole steps (only with --bccd)          figures/loss_share_bccd.csv
    4  profile_loss_share.py --coco-size                              figures/loss_share_coco_size.csv
    5  count_operations.py, benchmark_targets.py, count_kernels.py    figures/operations.csv, targets.csv, kernels.csv
    6  draw_figures.py, speed_page.py

The CSV files are written to the work directory, and go into the docs when all of them are there. The folder of BCCD has
train.json; the default is BCCD_ROOT. Needs MMDetection and a C++ compiler.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _this_package import with_this_package

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools/benchmarks'
ATSS = ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py'
BCCD = [
    ROOT / f'configs/bccd/{name}_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py'
    for name in ('atss', 'faster-rcnn', 'cascade-rcnn')
]
COCO = [
    ROOT / f'configs/{folder}/{folder.replace("_", "-")}_r50_fpn_brs_4xb4-1x_coco.py'
    for folder in ('atss', 'faster_rcnn', 'cascade_rcnn')
]
EPOCHS = 4


def commands(work_dir: Path, with_bccd: bool) -> list[list[str]]:
    """The commands that measure, in their order; each is a tool and its arguments."""
    benchmark = ['benchmarks/benchmark_losses.py', '--scaling', '--profile', '--out', work_dir]
    profile = 'benchmarks/profile_loss_share.py'
    steps: list[list[object]] = []
    if with_bccd:
        trained = work_dir / 'atss'
        short = ['--cfg-options', f'train_cfg.max_epochs={EPOCHS}', f'train_cfg.val_interval={EPOCHS}']
        steps += [
            ['train.py', ATSS, '--work-dir', trained, *short],
            [*benchmark, '--config', ATSS, '--checkpoint', trained / f'epoch_{EPOCHS}.pth'],
            [profile, *BCCD, '--out', work_dir / 'loss_share_bccd.csv'],
        ]
    else:
        steps.append(benchmark)
    steps += [
        ['benchmarks/benchmark_losses.py', '--curve', '--out', work_dir],
        [profile, *COCO, '--coco-size', '--iterations', 1, '--out', work_dir / 'loss_share_coco_size.csv'],
        ['benchmarks/count_operations.py', '--out', work_dir / 'operations.csv'],
        ['benchmarks/benchmark_targets.py', '--out', work_dir / 'targets.csv'],
        ['benchmarks/count_kernels.py', '--out', work_dir / 'kernels.csv'],
    ]
    return [[str(ROOT / 'tools' / str(tool)), *map(str, arguments)] for tool, *arguments in steps]


def publish(work_dir: Path, docs: Path) -> None:
    """Copy the CSV files into the docs, where one run replaces all earlier ones."""
    figures = docs / 'figures'
    for path in sorted(work_dir.glob('*.csv')):
        shutil.copy(path, figures / path.name)
    (figures / 'benchmark_alrp_dr.csv').unlink(missing_ok=True)  # of an earlier run; benchmark.csv has these losses


def run(command: list[str], environment: dict[str, str]) -> None:
    print('$', shlex.join(command), flush=True)
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env=environment)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--docs', type=Path, default=ROOT / 'docs', help='folder of the docs')
    parser.add_argument(
        '--bccd', type=Path, default=os.environ.get('BCCD_ROOT'), metavar='FOLDER', help='folder of BCCD'
    )
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/speed', help='folder to write to first')
    args = parser.parse_args(argv)
    work_dir, docs = args.work_dir.resolve(), args.docs.resolve()
    environment = {**os.environ, **with_this_package()}
    if args.bccd:
        environment['BCCD_ROOT'] = str(args.bccd.resolve())
    else:
        print('no --bccd: without the captured logits, and the whole steps stay as they are')
    work_dir.mkdir(parents=True, exist_ok=True)
    for command in commands(work_dir, args.bccd is not None):
        run(command, environment)
    publish(work_dir, docs)
    figures = ['benchmark_time', 'benchmark_memory', 'headline']
    run([str(TOOLS / 'draw_figures.py'), *figures, '--docs', str(docs)], environment)
    run([str(TOOLS / 'speed_page.py'), '--docs', str(docs)], environment)


if __name__ == '__main__':
    main()
