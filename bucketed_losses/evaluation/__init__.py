"""What detections are worth: matches with the ground truth, calibration of their scores, ranks of a batch."""

from .calibration import (
    CalibrationReport,
    calibrated,
    calibration_errors,
    cross_validated,
    fit_calibration,
    reliability,
)
from .matches import ClassMatches, CollectDetections, average_precision, load_annotations, match_detections

__all__ = [
    'CalibrationReport',
    'ClassMatches',
    'CollectDetections',
    'average_precision',
    'calibrated',
    'calibration_errors',
    'cross_validated',
    'fit_calibration',
    'load_annotations',
    'match_detections',
    'reliability',
]
