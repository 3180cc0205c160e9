"""Where the processes that a tool starts find this package."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def with_this_package() -> dict[str, str]:
    """The environment variable with which Python finds this package, and what the user's own variable finds."""
    return {'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))}
