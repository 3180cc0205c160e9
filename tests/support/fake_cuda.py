"""A fixture for tests on fake CUDA tensors, on which whatever makes the host wait raises an error."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


@pytest.fixture
def fake_cuda():
    """Skips where fake CUDA tensors need a driver: in CUDA builds of old versions of torch."""
    try:
        with FakeTensorMode():
            torch.empty(1, device='cuda')[None].sum()
    except RuntimeError as error:
        pytest.skip(f'torch {torch.__version__} makes no fake CUDA tensors here: {str(error).splitlines()[0]}')
