"""Check that the packages of a study are installed, before they are imported."""

from __future__ import annotations

from importlib.util import find_spec

from bucketed_losses.errors import UserError
from bucketed_losses.stack import StackError, check_stack

TABLES = {'pandas': 'study', 'matplotlib': 'study'}
TRAINING = {**TABLES, 'pycocotools': 'mmdet'}
SLURM = {'submitit': 'slurm'}


class MissingPackagesError(UserError, ImportError):
    """Packages that are not installed, and the extra of this package that installs them."""


def check_packages(packages: dict[str, str]) -> None:
    """Check that packages can be imported.

    Args:
        packages: Name of each package, and the extra of this package that contains it.

    Raises:
        MissingPackagesError: at least one is not installed.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        extras = ','.join(dict.fromkeys(packages[name] for name in missing))
        raise MissingPackagesError(
            f'{", ".join(missing)} {"is" if len(missing) == 1 else "are"} not installed: '
            f'pip install "bucketed-losses[{extras}]"'
        )


def check_training() -> None:
    """Check that MMDetection and the packages of a study are installed.

    Raises:
        MissingPackagesError: something is missing, or does not fit together.
    """
    try:
        check_stack()
    except StackError as error:
        raise MissingPackagesError(str(error)) from error
    check_packages(TRAINING)
