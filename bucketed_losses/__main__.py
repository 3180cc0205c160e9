"""``python -m bucketed_losses`` is the command ``bucketed-losses``."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == '__main__':
    sys.argv[0] = 'bucketed-losses'  # the name that errors begin with
    main()
