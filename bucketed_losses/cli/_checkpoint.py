"""Loading a checkpoint safely, for the verbs that read one themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bucketed_losses.mmdet.engine import CheckpointError, safe_load


def load_safely(tool: str, path: Path) -> dict[str, Any]:
    """The checkpoint, on the CPU.

    Raises:
        SystemExit: it is not there, holds more than tensors and plain data, or is no checkpoint; names ``tool``.
    """
    try:
        checkpoint = safe_load(path, map_location='cpu')
    except (OSError, CheckpointError) as error:
        reason = str(error).removeprefix(f'{path}: ')
        raise SystemExit(f'{tool}: {path} cannot be loaded safely: {reason}') from error
    if not isinstance(checkpoint, dict):
        raise SystemExit(f'{tool}: {path} holds a {type(checkpoint).__name__}, not a checkpoint')
    return checkpoint
