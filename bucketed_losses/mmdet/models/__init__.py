"""Losses, heads, Co-DETR and the demo backbone, laid out and registered as MMDetection's own ``mmdet.models``."""

from . import pairing
from .backbones import EfficientNetLite0
from .dense_heads import (
    CoATSSHead,
    CoDeformDETRHead,
    RankBasedATSSHead,
    RankBasedCoATSSHead,
    RankBasedCoDeformDETRHead,
    RankBasedFCOSHead,
    RankBasedGFLHead,
    RankBasedPAAHead,
    RankBasedRetinaHead,
    RankBasedRetinaSepBNHead,
    RankBasedRPNHead,
    RankBasedRTMDetHead,
    RankBasedRTMDetSepBNHead,
)
from .detectors import CalibratedDetector, CoDETR
from .losses import APLoss, BucketedAPLoss, BucketedRSLoss, DRLoss, RSLoss, aLRPLoss
from .roi_heads import (
    CoStandardRoIHead,
    RankBasedBBoxHead,
    RankBasedCascadeRoIHead,
    RankBasedConvFCBBoxHead,
    RankBasedCoRoIHead,
    RankBasedFCNMaskHead,
    RankBasedRoIHead,
    RankBasedShared2FCBBoxHead,
    RankBasedShared4Conv1FCBBoxHead,
)

__all__ = [
    'APLoss',
    'BucketedAPLoss',
    'BucketedRSLoss',
    'CalibratedDetector',
    'CoATSSHead',
    'CoDETR',
    'CoDeformDETRHead',
    'CoStandardRoIHead',
    'DRLoss',
    'EfficientNetLite0',
    'RSLoss',
    'RankBasedATSSHead',
    'RankBasedBBoxHead',
    'RankBasedCascadeRoIHead',
    'RankBasedCoATSSHead',
    'RankBasedCoDeformDETRHead',
    'RankBasedCoRoIHead',
    'RankBasedConvFCBBoxHead',
    'RankBasedFCNMaskHead',
    'RankBasedFCOSHead',
    'RankBasedGFLHead',
    'RankBasedPAAHead',
    'RankBasedRPNHead',
    'RankBasedRTMDetHead',
    'RankBasedRTMDetSepBNHead',
    'RankBasedRetinaHead',
    'RankBasedRetinaSepBNHead',
    'RankBasedRoIHead',
    'RankBasedShared2FCBBoxHead',
    'RankBasedShared4Conv1FCBBoxHead',
    'aLRPLoss',
    'pairing',
]
