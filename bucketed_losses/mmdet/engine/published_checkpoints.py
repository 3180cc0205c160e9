"""Converts checkpoints of the paper's repository (MMDetection 2.25) for ATSS, PAA, Faster, Mask and Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .conversion import Conversion


def convert_published(source: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Conversion:
    """Assign the entries of a published checkpoint to a detector of this package.

    Heads, necks and backbones have the same names in MMDetection 2.25 and 3, and this package's heads have the same
    layers as the published ones: a classifier without background, no centerness, no IoU branch. The conversion removes
    the prefix of a wrapped model, records every name, and raises an error for checkpoints of other detectors.

    Args:
        source: The checkpoint's ``state_dict``.
        model: ``state_dict()`` of the detector that is to load it.

    Raises:
        ValueError: ``source`` is a checkpoint of Co-DETR, or of a detector that was trained with a score-based loss.
    """
    source = {name.removeprefix('module.'): value for name, value in source.items()}
    if any(name.startswith('query_head.') for name in source):
        raise ValueError('this is a Co-DETR checkpoint (query_head); convert it with: bucketed-losses convert co-detr')
    branches = sorted({name.split('.')[1] for name in source if 'centerness' in name})
    if branches:
        raise ValueError(
            f'this checkpoint has a branch {branches[0]}, which detectors with a ranking loss do not have: it was '
            "trained with a score-based loss; MMDetection's own configs load it"
        )
    for name, value in source.items():
        if name.endswith('fc_cls.weight') and name in model and len(value) == len(model[name]) + 1:
            raise ValueError(
                f'{name} has {len(value)} rows for {len(model[name])} classes, one for background: this checkpoint was '
                "trained with a score-based loss; MMDetection's own configs load it"
            )
    conversion = Conversion()
    for name, value in source.items():
        conversion.put(name, name, value, model)
    return conversion.finish(model)
