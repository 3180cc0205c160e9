"""What differs between a CPU and an accelerator, and comparing logits with edges of a higher precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PIECE = 2**18
"""Entries in a piece that stays in a CPU's cache."""

MOST_ELEMENTS = 2**22
"""Most elements of a tensor on an accelerator that is not of the size of the entries."""


is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)  # torch 2.1 has none
_in_a_transform = getattr(torch._C, '_are_functorch_transforms_active', lambda: False)
# Torch 2.4 cannot trace a call of _in_a_transform. (Comparing torch.__version__ itself needs a package in torch 2.1.)
_compiles_the_question = tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6)
_as_accelerator = False


def is_transformed() -> bool:
    """Whether the call is inside of a transform of ``torch.func``; before torch 2.6, not known while compiling."""
    return (_compiles_the_question or not is_compiling()) and _in_a_transform()


def is_traced() -> bool:
    """Whether the call is compiled, exported or transformed by ``torch.func``, and must not depend on values."""
    return is_compiling() or is_transformed()


@contextmanager
def as_on_an_accelerator() -> Iterator[None]:
    """Inside, tensors of a CPU are treated as those of an accelerator, to count and to test what one would do."""
    global _as_accelerator
    before, _as_accelerator = _as_accelerator, True
    try:
        yield
    finally:
        _as_accelerator = before


def on_cpu(tensor: Tensor) -> bool:
    """Whether to save cache misses by more operations, and whether reading a value on the host is free.

    What is compiled, exported or transformed by ``torch.func`` cannot read values, and a compiler fuses operations. It
    takes an accelerator's way on a CPU too.
    """
    return tensor.device.type == 'cpu' and not (_as_accelerator or is_traced())


def check_determinism(tensor: Tensor) -> None:
    """Refuse what the losses cannot do: PyTorch has no deterministic prefix sum of floating-point numbers on CUDA.

    Raises:
        RuntimeError: The tensor is on CUDA, and ``torch.use_deterministic_algorithms(True)`` was called.
    """
    if (
        tensor.device.type == 'cuda'
        and torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    ):
        raise RuntimeError(
            'ranking losses have no deterministic algorithm on CUDA, because torch.cumsum has none, and '
            'torch.use_deterministic_algorithms(True) is set; call '
            'torch.use_deterministic_algorithms(True, warn_only=True), or compute the loss on the CPU'
        )


def split(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of flat tensors of one length, piece by piece: ``PIECE`` entries each on a CPU, all of them elsewhere.

    On a CPU, intermediate results of one piece stay in the cache. On an accelerator, each piece would cost launches.
    """
    size = PIECE if on_cpu(tensors[0]) else max(len(tensors[0]), 1)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def round_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest numbers of ``dtype`` that are not below the float64 ``values``, of the same shape.

    For every x of that dtype, ``x >= round_up(v)`` if and only if ``x >= v``. Float32 logits can therefore be compared
    with float64 edges without a float64 copy of the logits.
    """
    rounded = values.to(dtype)
    next_above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < values, next_above, rounded)
