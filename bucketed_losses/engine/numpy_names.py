"""Keep MMDetection's LVIS and Cityscapes metrics working with today's numpy.

PyPI's ``lvis`` 0.5.3 asks numpy for ``np.float`` (gone since 1.24), ``cityscapesscripts`` 2.3.0 for ``np.in1d`` (gone
since 2.4). Both are the toolkits that MMDetection's metrics are built on, so a user cannot go round them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
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
    """Give the two modules, and nobody else, a numpy that has the names they miss. Called on import of this package.

    Toolkits that are not installed are left alone, and so is everything with a numpy that has the names.
    """
    for module_name, names in _MISSING.items():
        missing = {name: value for name, value in names.items() if not hasattr(np, name)}
        if not missing or find_spec(module_name.partition('.')[0]) is None:
            continue
        try:
            module: Any = import_module(module_name)
        except ImportError:  # a dependency of its own is missing; MMDetection says so when the metric is used
            continue
        if module.np is np:
            module.np = _NumpyWith(missing)
