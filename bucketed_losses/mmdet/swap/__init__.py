"""Converts MMDetection configs to ranking losses: heads, classifiers, samplers, box losses, thresholds, learning rate.

There are three ways to do it, with the same result::

    bucketed-losses swap CONFIG --loss brs --out OUT.py             # a file that inherits CONFIG
    swap_loss(Config.fromfile('my_config.py'), 'brs').cfg           # in Python
    __import__('bucketed_losses').swap_here(globals(), 'brs')       # the last line of a config

Each ranking head declares the changes that it needs, its recipe (:mod:`bucketed_losses.mmdet.models.recipes`).
:mod:`~bucketed_losses.mmdet.swap.swapper` applies recipes, and :mod:`~bucketed_losses.mmdet.swap.changes` records the
changes.
"""

from .changes import ABSENT, Change, Swap, SwapError
from .swapper import LOSSES, swap_here, swap_loss

__all__ = ['ABSENT', 'LOSSES', 'Change', 'Swap', 'SwapError', 'swap_here', 'swap_loss']
