"""Detectors that MMDetection does not contain."""

from .auxiliary_queries import AuxiliaryQueries, AuxiliaryQueryEmbedding, draw_auxiliary_queries
from .calibrated_detector import CalibratedDetector, CalibratedDetectorMixin, ScoreCalibration, take_score_threshold
from .co_detr import CoDETR

__all__ = [
    'AuxiliaryQueries',
    'AuxiliaryQueryEmbedding',
    'CalibratedDetector',
    'CalibratedDetectorMixin',
    'CoDETR',
    'ScoreCalibration',
    'draw_auxiliary_queries',
    'take_score_threshold',
]
