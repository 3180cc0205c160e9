"""The places of the configs and tools that come with this package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """A file of ``configs/`` or ``tools/``: in the folder ``.mim`` of a wheel, or in the clone.

    Args:
        name: Its path in the clone, such as ``configs/atss/atss_r50_fpn_brs_4xb4-1x_coco.py``.

    Raises:
        FileNotFoundError: Neither has it.
    """
    for root in (PACKAGE / '.mim', PACKAGE.parent):
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f'{name} is neither in {PACKAGE / ".mim"} nor in {PACKAGE.parent}')
