"""Detectors that MMDetection does not contain."""

from ..recipes import import_ranking_heads
from .auxiliary_heads import AuxiliaryHeadsMixin
from .auxiliary_queries import (
    AuxiliaryContentEmbedding,
    AuxiliaryQueries,
    AuxiliaryQueryEmbedding,
    count_positives,
    draw_auxiliary_queries,
)
from .calibrated_detector import (
    CalibratedDetector,
    CalibratedDetectorMixin,
    ScoreCalibration,
    take_score_threshold,
    threshold_part,
)
from .co_detr import CoDETR
from .co_dino import CoDINO

__all__ = [
    'AuxiliaryContentEmbedding',
    'AuxiliaryHeadsMixin',
    'AuxiliaryQueries',
    'AuxiliaryQueryEmbedding',
    'CalibratedDetector',
    'CalibratedDetectorMixin',
    'CoDETR',
    'CoDINO',
    'ScoreCalibration',
    'count_positives',
    'draw_auxiliary_queries',
    'take_score_threshold',
    'threshold_part',
]

# The file of a detector with a recipe registers and exports it; it need not be named here.
_detectors = import_ranking_heads(__name__, __path__)
globals().update(_detectors)
__all__ += [name for name in _detectors if name not in __all__]
