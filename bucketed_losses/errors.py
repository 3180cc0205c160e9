"""Errors that a user can correct, and how command lines report them."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

USER_ERROR = 2
"""Exit status of a command that a :class:`UserError` has ended."""

STOPPED = 130
"""Exit status of a command that Ctrl-C has stopped, as shells have it."""

SECONDS_FOR_FIRST = 10
"""How long a process of a distributed run waits for the first one to report the error that both have."""

_NUMBERS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')  # of torchrun, Slurm and Open MPI


class UserError(ValueError):
    """What is wrong with an argument, a config or a file, in one line, and what to write instead."""

    def __str__(self) -> str:
        # A subclass that is a KeyError too would show its text in quotes.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class ReportedError(SystemExit):
    """Ends a command with status 2 after its error was printed; the text of the exception is that of the error."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = USER_ERROR


def one_line_errors(main: Callable[..., Any]) -> Callable[..., Any]:
    """A ``main`` that reports a :class:`UserError` in one line on stderr and exits with 2.

    With ``--debug`` on the command line, the traceback is shown instead. All other exceptions keep their traceback.
    Ctrl-C ends with one line and status 130; a ``KeyboardInterrupt`` with a text is reported with it. After that line,
    Ctrl-C kills the process, in case something hangs while it ends.

    In a distributed run, the first process reports. Another process waits for its launcher to end it, because most
    errors of a user occur in all processes; if that takes longer than :data:`SECONDS_FOR_FIRST`, it reports the error
    as its own.
    """

    @functools.wraps(main)
    def reporting(*args: Any, **kwargs: Any) -> Any:
        given = next((list(value) for value in (*args, *kwargs.values()) if isinstance(value, (list, tuple))), sys.argv)
        debug = '--debug' in given
        try:
            return main(*args, **kwargs)
        except UserError as error:
            if debug:
                raise
            report(error)
            raise ReportedError(str(error)) from error
        except KeyboardInterrupt as error:
            if debug:
                raise
            if process_number() == 0:
                print(f'\n{program()}: {str(error) or "stopped"}', file=sys.stderr, flush=True)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise SystemExit(STOPPED) from None

    return reporting


def report(error: object) -> None:
    """Print an error in one line on stderr, once for all processes of a distributed run."""
    number = process_number()
    whose = ''
    if number:
        # The first process of another node goes before the others there.
        time.sleep(SECONDS_FOR_FIRST * (1 if os.environ.get('LOCAL_RANK', '0') == '0' else 2))
        whose = f' (process {number})'
    text = ' '.join(line.strip() for line in str(error).splitlines())
    print(f'{program()}: error{whose}: {text}', file=sys.stderr, flush=True)


def program() -> str:
    """The name of the running command, for messages."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == '__main__.py' else path.name


def process_number() -> int:
    """The number of this process in a distributed run, from its launcher's environment; 0 without a launcher."""
    number = next((os.environ[name] for name in _NUMBERS if name in os.environ), '0')
    return int(number) if number.isdecimal() else 0
