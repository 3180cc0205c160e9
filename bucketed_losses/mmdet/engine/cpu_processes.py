"""Distributed runs on machines without an accelerator: MMEngine's launchers with gloo in place of NCCL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed


def launch_on_cpu(cfg: Config) -> None:
    """Join the process group of ``cfg.launcher``. Call this before a ``Runner`` is built, which would try the same.

    MMEngine's launchers select a CUDA device, and its ``Runner`` wraps the model for that device; both fail on a
    machine without one. Here MMEngine reads the launcher's environment (torchrun's, Slurm's or MPI's) as usual, but the
    backend is gloo, and ``cfg.model_wrapper_cfg`` keeps the model on the CPU. If there is an accelerator or no
    launcher, nothing is done. If the process has already joined a process group, only the config is changed.
    """
    if cfg.get('launcher', 'none') == 'none' or get_device() != 'cpu':
        return
    if not is_distributed():
        options = {**cfg.get('env_cfg', {}).get('dist_cfg', {}), 'backend': 'gloo'}
        with _no_device(cfg.launcher):
            init_dist(cfg.launcher, **options)
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper.update(cfg.get('model_wrapper_cfg') or {})
    cfg.model_wrapper_cfg = {**wrapper, 'device_ids': None}


# The environment variables from which MMEngine's launchers read the index of the device that a process selects.
_LOCAL_RANKS = {'pytorch': 'LOCAL_RANK', 'slurm': 'SLURM_LOCALID', 'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK'}


@contextmanager
def _no_device(launcher: str) -> Iterator[None]:
    """Let MMEngine's launchers select device -1, that is, none: ``torch.cuda.set_device`` ignores negative numbers.

    The selection of a device is the only step of the launchers that needs a GPU. Afterwards the environment is as the
    launcher has set it, with the correct local rank.
    """
    name = _LOCAL_RANKS.get(launcher, 'LOCAL_RANK')
    local_rank = os.environ.get(name)
    os.environ[name] = '-1'
    try:
        yield
    finally:
        for changed in {name, 'LOCAL_RANK'}:
            if os.environ.get(changed) == '-1':
                del os.environ[changed]
                if local_rank is not None:
                    os.environ[changed] = local_rank
