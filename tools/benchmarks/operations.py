"""Counting what an accelerator would launch, how large its tensors are, and how often the host would wait for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class CountOperations(TorchDispatchMode):
    """Counts operations that compute or copy; a view of a tensor costs nothing.

    Attributes:
        names: The names of the operations, in their order.
        largest: The number of elements of the largest storage that any of them made.
        waits: How many of them make the host wait, see :func:`is_wait`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.waits += is_wait(func, args)
        if not is_view(func):
            self.names.append(func.name().removeprefix('aten::'))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


def is_view(func: Any) -> bool:
    """Whether an operation only makes a new view: its first result shares the memory of an argument unchanged."""
    returns = func._schema.returns
    alias = returns[0].alias_info if returns else None
    return (alias is not None and not alias.is_write) or func.name() == 'aten::_unsafe_view'


WAITS = ('nonzero', '_local_scalar_dense', 'masked_select', 'bincount')


def is_wait(func: Any, args: Any) -> bool:
    """Whether the host waits for the result of an operation: it reads a value, or the shape depends on values.

    A copy from the host is not seen on a CPU, and neither is ``Tensor.tolist``.
    """
    name = func.name().removeprefix('aten::')
    if name.startswith(WAITS):
        return True
    masks = args[1] if name.startswith(('index.', 'index_put')) else ()
    return any(isinstance(mask, Tensor) and mask.dtype == torch.bool for mask in masks)
