"""Counting what an accelerator would launch and wait for, the sizes of its tensors and the elements that it touches."""

from __future__ import annotations

import math
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


class CountElementOperations(TorchDispatchMode):
    """Sums up the elements that operations touch.

    An operation that is neither a view nor an allocation counts the elements of its largest tensor.

    Attributes:
        total: The sum, where a sort counts n log2 n and a search log2 of the length per value.
        touched: The sum without these factors, where an operation that reads or writes at indices counts the elements
            that it reads or writes. Divided by N it is the number of passes over N entries.
    """

    AT_INDICES = ('index_select', 'gather', 'take', 'index', 'index_fill_', 'index_add_', 'index_copy_', 'scatter_',
                  'scatter_add_')  # fmt: skip
    FREE = ('empty', 'detach', 'alias', '_local_scalar_dense', 'resize', 'set_')

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0
        self.touched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix('aten::').split('.')[0]
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and not any(word in name for word in self.FREE):
            inputs = [leaf.numel() for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
            outputs = [leaf.numel() for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor)]
            factor = 1.0
            if name in ('sort', 'argsort'):
                factor = math.log2(max(inputs[0], 2))
            elif name in ('searchsorted', 'bucketize'):
                factor, inputs = math.log2(max(inputs[0], 2)), inputs[1:]
            self.total += factor * max(inputs + outputs, default=0)
            if name in self.AT_INDICES:
                inputs, outputs = inputs[1:], [] if name.endswith('_') else outputs
            self.touched += max(inputs + outputs, default=0)
        return out


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
