"""Ranking-based losses for object detectors, in near-linear time.

``bucketed_losses.functional`` needs torch alone. Where MMDetection is installed, importing this package also registers
its losses, heads, backbone and data sets in MMDetection's registries; in a config::

    custom_imports = dict(imports=['bucketed_losses'])
"""

from importlib.util import find_spec

from . import functional
from .functional import RankSort
from .version import __version__

__all__ = ['RankSort', '__version__', 'functional']

if find_spec('mmdet') is not None:
    from . import datasets, engine, evaluation, models
    from .swap import swap_here, swap_loss

    __all__ += ['datasets', 'engine', 'evaluation', 'models', 'swap_here', 'swap_loss']
