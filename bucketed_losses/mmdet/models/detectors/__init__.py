"""Detectors that MMDetection does not contain."""

from .auxiliary_queries import AuxiliaryQueries, AuxiliaryQueryEmbedding, count_positives, draw_auxiliary_queries
from .calibrated_detector import CalibratedDetector, CalibratedDetectorMixin, ScoreCalibration, take_score_threshold
from .co_detr import CoDETR

__all__ = [
    'AuxiliaryQueries',
    'AuxiliaryQueryEmbedding',
    'CalibratedDetector',
    'CalibratedDetectorMixin',
    'CoDETR',
    'ScoreCalibration',
    'count_positives',
    'draw_auxiliary_queries',
    'take_score_threshold',
]
