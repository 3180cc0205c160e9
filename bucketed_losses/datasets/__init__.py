"""The two small data sets of the CPU-sized configs, in MMDetection's registry."""

from .small_coco import BCCDDataset, ShapesDataset

__all__ = ['BCCDDataset', 'ShapesDataset']
