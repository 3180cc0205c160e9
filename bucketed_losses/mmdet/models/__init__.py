"""Losses, heads, Co-DETR and the demo backbone; layout and registration follow MMDetection's ``mmdet.models``."""

from . import dense_heads, detectors, pairing, refusals, roi_heads
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
from .detectors import CalibratedDetector, CoDETR, CoDINO
from .losses import APLoss, BucketedAPLoss, BucketedRSLoss, DRLoss, RSLoss, aLRPLoss
from .recipes import import_ranking_heads
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
    'CoDINO',
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
    'refusals',
]

# The file of a ranking head registers it. This exports those that are not imported by name above.
for _package in (dense_heads, roi_heads, detectors):
    _heads = import_ranking_heads(_package.__name__, _package.__path__)
    globals().update(_heads)
    __all__ += [name for name in _heads if name not in __all__]
