"""The small pretrained backbone of the CPU-sized configs."""

from .efficientnet_lite import EfficientNetLite0

__all__ = ['EfficientNetLite0']
