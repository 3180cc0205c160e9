"""Losses, heads and the demo backbone, laid out and registered as MMDetection's own ``mmdet.models``."""

from .backbones import EfficientNetLite0
from .dense_heads import RankBasedATSSHead
from .losses import APLoss, BucketedAPLoss, BucketedRSLoss, RSLoss

__all__ = ['APLoss', 'BucketedAPLoss', 'BucketedRSLoss', 'EfficientNetLite0', 'RSLoss', 'RankBasedATSSHead']
