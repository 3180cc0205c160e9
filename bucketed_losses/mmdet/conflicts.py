"""Classes of other packages that have the names of classes of this one. A registry holds one class of each name."""

from __future__ import annotations

from mmdet.registry import MODELS

from ..errors import UserError

_OF_CO_DETR = ('CoATSSHead', 'CoDETR', 'CoDINOHead', 'CoStandardRoIHead')


def check_conflicts() -> None:
    """Check that nobody has registered the classes of Co-DETR, as the project ``CO-DETR`` of MMDetection does.

    Raises:
        UserError: Somebody has.
    """
    for name in _OF_CO_DETR:
        other = MODELS.module_dict.get(name)
        if other is not None and not other.__module__.startswith(__package__):
            raise UserError(
                f'{name} is already registered by {other.__module__}, and this package has a class of that name in its '
                'place; leave that module out of custom_imports, or import only one of both'
            )
