"""Errors that a user can mend, and how command lines report them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOPPED = 130
"""Exit status of a command that Ctrl-C has stopped, as shells have it."""


class UserError(ValueError):
    """What is wrong with an argument, a config or a file, in one line, and what to write instead."""


def one_line_errors(main: Callable[..., Any]) -> Callable[..., Any]:
    """A ``main`` that reports a :class:`UserError` in one line on stderr and exits with 2.

    With ``--debug`` on the command line, the traceback is shown instead. All other exceptions keep their traceback.
    Ctrl-C ends with one line and status 130.
    """

    @functools.wraps(main)
    def reporting(*args: Any, **kwargs: Any) -> Any:
        program = Path(sys.argv[0]).name
        debug = '--debug' in sys.argv
        try:
            return main(*args, **kwargs)
        except UserError as error:
            if debug:
                raise
            print(f'{program}: error: {error}', file=sys.stderr)
            raise SystemExit(2) from error
        except KeyboardInterrupt:
            if debug:
                raise
            print(f'\n{program}: stopped', file=sys.stderr)
            raise SystemExit(STOPPED) from None

    return reporting
