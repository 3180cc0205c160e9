"""Report on the environment: versions, traps of the OpenMMLab packages, and whether losses and operators run.

    bucketed-losses doctor                      # or python -m bucketed_losses.doctor
    bucketed-losses doctor --json               # the same for programs
    python bucketed_losses/doctor               # in a clone, also where nothing is installed

The exit code is 0 without problems and 1 with problems; notes do not count. Every problem comes with a command that
fixes it; commands with tools/ or with pip install -e need a clone of this project. This package imports the standard
library alone. Versions come from the metadata of the installed distributions. torch and mmcv are imported in another
process only, so that a crash there becomes part of the report.

To be read in this order: :mod:`~bucketed_losses.doctor.facts`, :mod:`~bucketed_losses.doctor.gather`,
:mod:`~bucketed_losses.doctor.checks`, :mod:`~bucketed_losses.doctor.traps`, :mod:`~bucketed_losses.doctor.commands`,
:mod:`~bucketed_losses.doctor.diagnosis`, :mod:`~bucketed_losses.doctor.report`.
"""

from .checks import CHECKS, run_checks
from .commands import compile_commands, edit_command, wheel_commands
from .diagnosis import Finding, diagnose
from .facts import DISTRIBUTIONS, LIMITS, ONEDL, OPENMMLAB, Facts, numbers, stack
from .gather import gather
from .report import add_arguments, main, render, run
from .traps import CAUSES, NOTES, PROBLEMS, Cause, Trap

__all__ = [
    'CAUSES',
    'CHECKS',
    'DISTRIBUTIONS',
    'LIMITS',
    'NOTES',
    'ONEDL',
    'OPENMMLAB',
    'PROBLEMS',
    'Cause',
    'Facts',
    'Finding',
    'Trap',
    'add_arguments',
    'compile_commands',
    'diagnose',
    'edit_command',
    'gather',
    'main',
    'numbers',
    'render',
    'run',
    'run_checks',
    'stack',
    'wheel_commands',
]
