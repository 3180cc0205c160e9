"""Keep MMDetection's LVIS and Cityscapes metrics working with today's numpy.

PyPI's ``lvis`` 0.5.3 asks numpy for ``np.float`` (gone since 1.24), ``cityscapesscripts`` 2.3.0 for ``np.in1d`` (gone
since 2.4). Both are the toolkits that MMDetection's metrics are built on, so a user cannot go round them.
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
    """numpy with some names more; everything else is looked up in numpy itself."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__('numpy')
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def mend_evaluators() -> None:
    """Give the two modules, and nobody else, a numpy that has the names they miss. Importing the plug-in calls this.

    MMDetection's metrics import the toolkits that are installed. Toolkits that are not installed are left alone, and so
    is everything with a numpy that has the names.
    """
    import mmdet.evaluation  # noqa: F401

    for module_name, names in _MISSING.items():
        module: Any = sys.modules.get(module_name)
        missing = {name: value for name, value in names.items() if not hasattr(np, name)}
        if module is not None and missing and module.np is np:
            module.np = _NumpyWith(missing)
