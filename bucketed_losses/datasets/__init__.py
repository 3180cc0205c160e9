"""The two small data sets of the CPU-sized configs, and MMDetection's COCO-format ones with checks."""

from .. import needs_mmdet  # noqa: F401
from .checked_coco import (
    CheckedAnnotationsMixin,
    CheckedCityscapesDataset,
    CheckedCocoDataset,
    CheckedLVISV1Dataset,
)
from .small_coco import BCCDDataset, ShapesDataset

__all__ = [
    'BCCDDataset',
    'CheckedAnnotationsMixin',
    'CheckedCityscapesDataset',
    'CheckedCocoDataset',
    'CheckedLVISV1Dataset',
    'ShapesDataset',
]
