"""The ranking-loss version of any MMDetection config: heads, classifier, samplers, box loss, thresholds, learning rate.

Three ways to the same result::

    bucketed-losses swap CONFIG --loss brs --out OUT.py             # a file that inherits CONFIG
    swap_loss(Config.fromfile('my_config.py'), 'brs').cfg           # in Python
    __import__('bucketed_losses').swap_here(globals(), 'brs')       # the last line of a config

What changes for which head is declared by the ranking head (:mod:`bucketed_losses.mmdet.models.recipes`). To read:
:mod:`~bucketed_losses.mmdet.swap.swapper` applies recipes, :mod:`~bucketed_losses.mmdet.swap.changes` keeps account.
"""

from .changes import ABSENT, Change, Swap, SwapError
from .swapper import LOSSES, swap_here, swap_loss

__all__ = ['ABSENT', 'LOSSES', 'Change', 'Swap', 'SwapError', 'swap_here', 'swap_loss']
