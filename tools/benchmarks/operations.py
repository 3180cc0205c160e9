"""Counting what an accelerator would launch, and how large its tensors are."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class CountOperations(TorchDispatchMode):
    """Counts operations that compute or copy; a view of a tensor costs nothing.

    Attributes:
        names: The names of the operations, in their order.
        largest: The number of elements of the largest storage that any of them made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
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
