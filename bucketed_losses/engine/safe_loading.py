"""Make MMEngine's own checkpoints loadable with PyTorch's safe loading left on."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def allow_mmengine_checkpoints() -> None:
    """Allow exactly what an MMEngine checkpoint holds beside tensors and plain containers.

    Since torch 2.6 ``torch.load`` refuses every class it was not told of. MMEngine 0.10 saves its log history in each
    checkpoint: ``HistoryBuffer`` objects around numpy arrays, so that resuming and testing fail. Only data is allowed
    here; a checkpoint that names any other class or function is still refused. Safe to call repeatedly.
    """
    rebuild_array: Any = np.empty(0).__reduce__()[0]
    rebuild_scalar: Any = np.float64(0).__reduce__()[0]
    numeric = [type(np.dtype(code)) for code in np.typecodes['AllInteger'] + np.typecodes['Float'] + '?']
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, *dict.fromkeys(numeric)]
    for function in (rebuild_array, rebuild_scalar):
        # numpy 1 and 2 write different names for the same function.
        for package in ('numpy._core.multiarray', 'numpy.core.multiarray'):
            allowed.append((function, f'{package}.{function.__name__}'))
    allowed.append((_history_buffer_method, 'builtins.getattr'))
    torch.serialization.add_safe_globals(allowed)


def _history_buffer_method(owner: Any, name: Any) -> Any:
    """Stands in for ``getattr`` in checkpoints, where MMEngine needs it for ``HistoryBuffer.mean`` and the like.

    The real ``getattr`` would hand a malicious checkpoint every object of the process.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f'the checkpoint asks for attribute {name!r} of {owner!r}; only the statistics of HistoryBuffer are allowed'
    )
