"""The name of the processor that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def processor(device: torch.device) -> str:
    """The name of an accelerator, or of the CPU with the number of cores that this process may use."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0))
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        name = platform.machine()
    return f'{name}, {cores} cores'
