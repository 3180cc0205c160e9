"""Evaluation of detections: matches with the ground truth, calibration of scores, and the logits that a loss ranks."""

from .calibration import (
    CalibrationReport,
    calibrated,
    calibration_errors,
    cross_validated,
    fit_calibration,
    reliability,
)
from .matches import (
    ClassMatches,
    CollectDetections,
    annotations_of,
    average_precision,
    coco_file,
    label_names,
    load_annotations,
    match_detections,
    precision_recall,
)
from .ranked_batch import RankedBatch, watch_ranking_losses
from .resampled_ap import resampled_average_precision

__all__ = [
    'CalibrationReport',
    'ClassMatches',
    'CollectDetections',
    'RankedBatch',
    'annotations_of',
    'average_precision',
    'calibrated',
    'calibration_errors',
    'coco_file',
    'cross_validated',
    'fit_calibration',
    'label_names',
    'load_annotations',
    'match_detections',
    'precision_recall',
    'reliability',
    'resampled_average_precision',
    'watch_ranking_losses',
]
