"""The small data sets of the CPU-sized configs, and MMDetection's COCO-format data sets with checks."""

from .checked_coco import (
    CheckedAnnotationsMixin,
    CheckedCityscapesDataset,
    CheckedCocoDataset,
    CheckedLVISV1Dataset,
)
from .small_coco import BCCDDataset, CardsDataset, ShapesDataset

__all__ = [
    'BCCDDataset',
    'CardsDataset',
    'CheckedAnnotationsMixin',
    'CheckedCityscapesDataset',
    'CheckedCocoDataset',
    'CheckedLVISV1Dataset',
    'ShapesDataset',
]
