"""Deprecated names and settings: what replaces them and when they are removed. Standard library only.

A module declares what it deprecates as a constant and warns where the old name is used::

    OLD_NAME = Deprecation('Swap.delta', 'read Swap.overrides', since='0.2.0', removal='0.4.0')

    @property
    def delta(self):
        OLD_NAME.warn()
        return self.overrides

``docs/versioning.md`` states the rule and lists the planned removals; a test compares the list with :data:`PLANNED`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

PLANNED: list[Deprecation] = []
"""All declared deprecations of the modules that have been imported, in the order of their import."""


@dataclass(frozen=True)
class Deprecation:
    """Something that works with a warning until it is removed.

    Attributes:
        name: The deprecated name or setting, as users write it.
        instead: What to do instead, as an imperative: ``'read Swap.overrides'``.
        since: The first version that warns, as ``'0.2.0'``.
        removal: The version that removes it, as ``'0.4.0'``.
    """

    name: str
    instead: str
    since: str
    removal: str

    def __post_init__(self) -> None:
        PLANNED.append(self)

    def __str__(self) -> str:
        return (
            f'{self.name} is deprecated since version {self.since} and will be removed in version {self.removal}: '
            f'{self.instead}'
        )

    def warn(self, stacklevel: int = 2) -> None:
        """Warn the user, with the place of the use.

        The category is ``FutureWarning``, which Python shows by default; ``DeprecationWarning`` is hidden in libraries.

        Args:
            stacklevel: As for :func:`warnings.warn`, counted from the caller of this method: 1 is the line that calls
                it, 2 is the line that called the deprecated function.
        """
        warnings.warn(str(self), FutureWarning, stacklevel=stacklevel + 1)
