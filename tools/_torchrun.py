"""torchrun for the launching scripts: it prints no traceback if a process has already reported an error of the user.

The arguments are those of ``python -m torch.distributed.run``. If the process that failed first has ended with the
status of an error of the user or of Ctrl-C, this command ends with the same status; otherwise as torchrun does.
"""

from __future__ import annotations

import signal

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from bucketed_losses.errors import STOPPED, USER_ERROR

if __name__ == '__main__':
    try:
        main()
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status not in (USER_ERROR, STOPPED):
            raise
        raise SystemExit(status) from None
    except SignalException as error:
        if error.sigval != signal.SIGINT:
            raise
        raise SystemExit(STOPPED) from None
