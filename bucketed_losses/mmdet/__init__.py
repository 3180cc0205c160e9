"""The plug-in for MMDetection 3: importing it registers losses, heads, detectors, data sets and hooks.

In a config::

    custom_imports = dict(imports=['bucketed_losses.mmdet'])

It has the layout of MMDetection: :mod:`~bucketed_losses.mmdet.models`, :mod:`~bucketed_losses.mmdet.datasets`,
:mod:`~bucketed_losses.mmdet.engine`, :mod:`~bucketed_losses.mmdet.evaluation`. :mod:`~bucketed_losses.mmdet.swap` puts
a ranking loss into a config. The import also makes MMEngine load checkpoints safely
(:func:`~bucketed_losses.mmdet.engine.load_checkpoints_safely`).
"""

from ..stack import DOCTOR, StackError, check_stack

check_stack()
try:
    import mmdet as _  # noqa: F401
except AssertionError as error:  # MMDetection checks the versions of mmcv and MMEngine
    raise StackError(f'MMDetection refuses the installed versions: {error} {DOCTOR}.') from error

from .conflicts import check_conflicts  # noqa: E402

check_conflicts()

from . import datasets, engine, evaluation, models  # noqa: E402
from .swap import swap_here, swap_loss  # noqa: E402

__all__ = ['datasets', 'engine', 'evaluation', 'models', 'swap_here', 'swap_loss']
