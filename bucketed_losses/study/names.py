"""Names and numbers of hyper-parameters of the losses, as the paper's tables have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan import EQUAL_TIME, STOCK

NAMES = {
    'ap': 'AP',
    'bap': 'BAP',
    'rs': 'RS',
    'brs': 'BRS',
    'alrp': 'aLRP',
    'dr': 'DR',
    EQUAL_TIME: 'BRS, time of RS by loop',
}
ORDER = [STOCK, 'ap', 'dr', 'alrp', 'bap', 'rs', 'brs', EQUAL_TIME]
"""The order of rows in tables and of colours in figures."""

# The paper's Tables 7 and 8; BAP has the hyper-parameters of AP. Of the detectors' own losses, the paper counts two.
_OF_ONE_STAGE = {'ap': 5, 'bap': 5, 'dr': 5, 'alrp': 1, 'rs': 1, 'brs': 1}
_OF_TWO_STAGES = {'alrp': 3, 'rs': 3, 'brs': 3}
_OF_STOCK = {'ATSS': 5, 'FasterRCNN': 9}
_BY_MODEL = {'ATSS': _OF_ONE_STAGE, 'RetinaNet': _OF_ONE_STAGE, 'PAA': _OF_ONE_STAGE, 'FasterRCNN': _OF_TWO_STAGES}
_SHORT = {'CrossEntropyLoss': 'CE', 'FocalLoss': 'Focal', 'QualityFocalLoss': 'QFL', 'SmoothL1Loss': 'SmoothL1'}


def place_of(label: str) -> tuple[int, str]:
    """A sort key: the losses of the paper in their order, then others by their label."""
    return (ORDER.index(label) if label in ORDER else len(ORDER), label)


def hyper_parameters(model: str, label: str) -> int | None:
    """Hyper-parameters of a loss in a detector of the class ``model``; None where the paper does not count them."""
    if label == STOCK:
        return _OF_STOCK.get(model)
    return _BY_MODEL.get(model, {}).get(label.split()[0])


def describe_losses(model: Mapping[str, Any]) -> tuple[str, str]:
    """Short names of the classification loss and the box loss in the last head of a detector's config."""
    head = model.get('bbox_head') or model.get('query_head') or (model.get('roi_head') or {}).get('bbox_head') or {}
    if isinstance(head, (list, tuple)):
        head = head[-1]
    names = [str((head.get(key) or {}).get('type', '')) for key in ('loss_cls', 'loss_bbox')]
    classification, box = (_SHORT.get(name, name.removesuffix('Loss')) for name in names)
    return classification, box
