"""Ranking-based losses for object detectors, in near-linear time.

``import bucketed_losses`` loads neither torch nor MMDetection and changes nothing in the process. Its parts:

* :mod:`bucketed_losses.functional`: the losses as functions of tensors; needs torch alone;
* :mod:`bucketed_losses.modules`: the same as :class:`torch.nn.Module`;
* :mod:`bucketed_losses.compat`: drop-in replacements for copies of the code of 2020 and 2021; needs torch alone;
* :mod:`bucketed_losses.doctor`: a report on the environment (``python -m bucketed_losses.doctor``); needs no torch.

Everything that needs MMDetection is in :mod:`bucketed_losses.mmdet`. Importing that sub-package registers its losses,
heads and data sets in MMDetection's registries. In a config::

    custom_imports = dict(imports=['bucketed_losses.mmdet'])
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .deprecation import Deprecation
from .version import __version__

if TYPE_CHECKING:
    from . import compat, functional, modules
    from .functional import RankSort

__all__ = ['RankSort', '__version__', 'compat', 'functional', 'modules']

_IN_CONFIGS = ('swap_here', 'swap_loss')  # a config can call them without an import statement
# Until version 0.1, the plug-in was the package itself.
_OLD_PARTS = {
    name: Deprecation(f'bucketed_losses.{name}', f'use bucketed_losses.mmdet.{name}', since='0.2.0', removal='0.4.0')
    for name in ('datasets', 'engine', 'evaluation', 'models')
}
_CUSTOM_IMPORT = Deprecation(
    "custom_imports = dict(imports=['bucketed_losses'])",
    "write custom_imports = dict(imports=['bucketed_losses.mmdet']) in the config",
    since='0.2.0',
    removal='0.4.0',
)


def __getattr__(name: str) -> Any:
    """Import parts when they are used: the losses need torch, the plug-in needs MMDetection."""
    if name in ('compat', 'functional', 'modules', 'mmdet'):
        return import_module(f'{__name__}.{name}')
    if name == 'RankSort':
        return import_module(f'{__name__}.functional').RankSort
    if name in _OLD_PARTS:
        _OLD_PARTS[name].warn()
    if name in _IN_CONFIGS or name in _OLD_PARTS:
        return getattr(import_module(f'{__name__}.mmdet'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _is_custom_import_of_a_config() -> bool:
    """Whether MMEngine imports this package, and not a part of it, because a config names it in ``custom_imports``."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        caller = frame.f_back
        if caller.f_code.co_name == 'import_modules_from_strings' and frame.f_code.co_name == 'import_module':
            return frame.f_locals.get('name') == __name__
        frame = caller
    return False


if 'mmengine.utils.misc' in sys.modules and _is_custom_import_of_a_config():
    _CUSTOM_IMPORT.warn()
    import_module(f'{__name__}.mmdet')
