"""Losses, heads and the demo backbone, laid out and registered as MMDetection's own ``mmdet.models``."""

from . import pairing
from .backbones import EfficientNetLite0
from .dense_heads import RankBasedATSSHead, RankBasedPAAHead, RankBasedRetinaHead, RankBasedRPNHead
from .losses import APLoss, BucketedAPLoss, BucketedRSLoss, RSLoss
from .roi_heads import (
    RankBasedCascadeRoIHead,
    RankBasedConvFCBBoxHead,
    RankBasedFCNMaskHead,
    RankBasedRoIHead,
    RankBasedShared2FCBBoxHead,
    RankBasedShared4Conv1FCBBoxHead,
)

__all__ = [
    'APLoss',
    'BucketedAPLoss',
    'BucketedRSLoss',
    'EfficientNetLite0',
    'RSLoss',
    'RankBasedATSSHead',
    'RankBasedCascadeRoIHead',
    'RankBasedConvFCBBoxHead',
    'RankBasedFCNMaskHead',
    'RankBasedPAAHead',
    'RankBasedRPNHead',
    'RankBasedRetinaHead',
    'RankBasedRoIHead',
    'RankBasedShared2FCBBoxHead',
    'RankBasedShared4Conv1FCBBoxHead',
    'pairing',
]
