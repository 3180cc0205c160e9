"""``python -m bucketed_losses.doctor``, and in a clone ``python bucketed_losses/doctor``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__':
    if not __package__:
        # Run as a file: modules of this folder must not hide those of others, and the package may not be installed.
        here = Path(__file__).resolve().parent
        sys.path[:] = [*(entry for entry in sys.path if Path(entry or '.').resolve() != here), str(here.parents[1])]
    from bucketed_losses.doctor.report import main

    sys.exit(main())
