"""Makes MMDetection's LVIS and Cityscapes metrics work with current numpy versions.

PyPI's ``lvis`` 0.5.3 uses ``np.float``, which numpy 1.24 removed, and ``cityscapesscripts`` 2.3.0 uses ``np.in1d``,
which numpy 2.4 removed. MMDetection's metrics are based on these toolkits, so a user cannot avoid them.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

_MISSING: dict[str, dict[str, Any]] = {
    'lvis.eval': {'float': float},
    'cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling': {'in1d': np.isin},
}


class _NumpyWith(ModuleType):
    """numpy with additional names; all other names are looked up in numpy itself."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__('numpy')
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def mend_evaluators() -> None:
    """Give the two modules, and no other, a numpy that has the missing names. Importing the plug-in calls this.

    MMDetection's metrics import the toolkits that are installed. If a toolkit is not installed, or numpy has the names,
    nothing is changed.
    """
    import mmdet.evaluation  # noqa: F401

    for module_name, names in _MISSING.items():
        module: Any = sys.modules.get(module_name)
        missing = {name: value for name, value in names.items() if not hasattr(np, name)}
        if module is not None and missing and module.np is np:
            module.np = _NumpyWith(missing)
