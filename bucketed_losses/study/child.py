"""The entry point of the processes of a study: ``python -m bucketed_losses.study.child STEP ARGUMENTS``.

ARGUMENTS are the keyword arguments of the step's function as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

from bucketed_losses.errors import one_line_errors

STEPS = {
    'train': ('training', 'train'),
    'times': ('times', 'write_times'),
    'gradients': ('gradient_shares', 'write_shares'),
}
"""The module and the function of each step; only the one that is needed is imported."""


def arguments_of(step: str, processes: int = 1, **arguments: Any) -> list[str]:
    """The command that runs a step, with torchrun if it has several processes."""
    module = ['-m', 'bucketed_losses.study.child', step, json.dumps(arguments)]
    if processes > 1:
        return [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}', *module]
    return [sys.executable, *module]


@record  # torchrun reports the traceback of the process that failed first
@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run one step."""
    step, arguments = sys.argv[1:] if argv is None else argv
    module, function = STEPS[step]
    getattr(import_module(f'bucketed_losses.study.{module}'), function)(**json.loads(arguments))


if __name__ == '__main__':
    main()
