"""A small training run, and how tests start it with the launchers."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
BASE = 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'


def write_config(folder: Path, lines: str = '') -> Path:
    """One epoch of two images per process, ranked across processes; every process records its weights at the end."""
    path = folder / 'small.py'
    path.write_text(
        f"_base_ = '{ROOT / BASE}'\n"
        "custom_imports = dict(imports=['bucketed_losses.mmdet', 'record_weights'])\n"
        "custom_hooks = [dict(type='EpochSeedHook'), dict(type='RecordWeights')]\n"
        'train_dataloader = dict(batch_size=2)\n'
        'train_cfg = dict(max_epochs=1, val_interval=1)\n'
        "model = dict(bbox_head=dict(loss_cls=dict(scope='global')))\n" + lines
    )
    return path


def environment(shapes_root: Path, python: Path, **more: object) -> dict[str, str]:
    """``PATH`` begins with the folder of ``python``; this checkout and its ``tests/support`` can be imported."""
    path = f'{python.parent}{os.pathsep}{os.environ["PATH"]}'
    modules = f'{ROOT}{os.pathsep}{ROOT / "tests/support"}'
    changes = {'SHAPES_ROOT': shapes_root, 'OMP_NUM_THREADS': 1, 'PYTHONPATH': modules, 'PATH': path, **more}
    return {**os.environ, **{key: str(value) for key, value in changes.items()}}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def check_processes(work_dir: Path, world: int, iterations: int) -> None:
    """Every process took part to the end, and all of them have the same weights."""
    records = [torch.load(work_dir / f'rank{rank}.pt', weights_only=True) for rank in range(world)]
    assert not (work_dir / f'rank{world}.pt').exists()
    for record in records:
        assert (record['world'], record['iter']) == (world, iterations)
        for name, value in records[0]['weights'].items():
            assert torch.equal(record['weights'][name], value), name
