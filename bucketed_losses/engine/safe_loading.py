"""Make MMEngine's own checkpoints loadable with PyTorch's safe loading left on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def allow_mmengine_checkpoints() -> None:
    """Allow exactly the classes that an MMEngine checkpoint holds beside tensors and plain containers.

    Since torch 2.6 ``torch.load`` refuses every class it was not told of. MMEngine 0.10 saves its log history, a
    ``HistoryBuffer`` around numpy arrays, in each checkpoint, so that resuming and testing fail. Only data is
    allowed here: a checkpoint with any other class or function is still refused.
    """
    reconstruct: Any = np.empty(0).__reduce__()[0]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, reconstruct, type(np.dtype(np.float64)), type(np.dtype(np.int64))]
    )
