"""Small training runs that are interrupted, resumed and compared."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch
from launching import ROOT, environment

from bucketed_losses.mmdet.engine import safe_load

PYTHON = Path(sys.executable)


def train(config, work_dir, *arguments):
    return list(map(str, [PYTHON, ROOT / 'tools/train.py', config, '--work-dir', work_dir, *arguments]))


def run(command, shapes_root, check=True, **more):
    env = environment(shapes_root, PYTHON, **more)
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == check, output[-3000:]
    return output


def assert_same_weights(*paths):
    first, *others = (safe_load(path)['state_dict'] for path in paths)
    for other in others:
        assert first.keys() == other.keys()
        for name, value in first.items():
            assert torch.equal(value, other[name]), name


# Random augmentation in workers that are started anew every epoch: persistent ones would have drawn other numbers.
MORE = (
    'train_cfg = dict(max_epochs=2, val_interval=2)\ndefault_hooks = dict(checkpoint=dict(max_keep_ckpts=3))\n'
    'train_dataloader = dict(batch_size=2, num_workers=2, persistent_workers=False)\n'
    "custom_hooks = [dict(type='EpochSeedHook'), dict(type='RecordWeights'), dict(type='PreemptionHook')]\n"
)


def start(config, work_dir, shapes_root, rank=0, world=1, port=0, *arguments):
    more = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_ADDR='127.0.0.1', MASTER_PORT=port) if port else {}
    launcher = ['--launcher', 'pytorch'] if port else []
    with (work_dir.parent / f'log{rank}').open('w') as log:
        return subprocess.Popen(
            train(config, work_dir, *launcher, *arguments),
            cwd=ROOT,
            env=environment(shapes_root, PYTHON, **more),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for(text, log, process):
    deadline = time.monotonic() + 300
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.01)
