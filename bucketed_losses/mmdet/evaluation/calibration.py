"""Calibration of scores: fits maps from score to precision on matched detections, and measures calibration errors.

D-ECE (here only the score is binned): Kueppers et al., Multivariate Confidence Calibration for Object Detection, CVPR
Workshops 2020. LaECE: Oksuz et al., Towards Building Self-Aware Object Detectors via Reliable Uncertainty
Quantification and Calibration, CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ...errors import UserError
from ..models.detectors.calibrated_detector import ScoreCalibration
from .matches import ClassMatches

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ('isotonic', 'platt')
# The number of knots of a Platt map. They are evenly spaced over the range of the fitted logits.
_PLATT_KNOTS = 201


class CalibrationReport(NamedTuple):
    """Calibration errors; 0 is the best value.

    Attributes:
        d_ece: The mean distance between score and precision over bins of all detections.
        la_ece: The mean over classes of the distance between the score and the product of precision and mean IoU.
    """

    d_ece: float
    la_ece: float


def fit_calibration(
    matches: Sequence[ClassMatches], method: str = 'isotonic', min_matches: int = 50
) -> tuple[ScoreCalibration, list[bool]]:
    """Fit a map from score to precision for each class.

    Args:
        matches: Per class, from :func:`~bucketed_losses.mmdet.evaluation.match_detections`.
        method: 'isotonic', scikit-learn's isotonic regression; or 'platt', its logistic regression on the logit.
        min_matches: A class needs this many correct and this many incorrect detections, at least 1, to get its own
            map. Other classes use one map that is fitted on all classes together. With 'platt', a class also uses that
            map if its precision does not increase with the score.

    Returns:
        The maps, and for each class whether it has its own map.

    Raises:
        ImportError: Scikit-learn is not installed.
        UserError: The method is unknown; ``min_matches`` is below 1; all detections are correct or all are incorrect;
            or the precision of all classes together does not increase with the score.
    """
    _check_arguments(method, min_matches)
    scores = np.concatenate([m.scores for m in matches])
    correct = np.concatenate([m.correct for m in matches])
    if correct.all() or not correct.any():
        raise UserError(
            f'{int(correct.sum())} of {len(correct)} detections are right, but the fit needs both right and wrong '
            'detections; check that the checkpoint belongs to the config'
        )
    fit = _isotonic if method == 'isotonic' else _platt
    pooled = fit(scores, correct)
    if pooled is None:
        raise UserError('the precision does not rise with the score; check that the checkpoint belongs to the config')
    by_class = [
        fit(m.scores, m.correct) if min(m.correct.sum(), (~m.correct).sum()) >= min_matches else None for m in matches
    ]
    maps = [mine or pooled for mine in by_class]
    num_knots = max(len(knots) for knots, _ in maps)
    calibration = ScoreCalibration(len(matches), num_knots)
    for row, (knots, values) in enumerate(maps):
        missing = num_knots - len(knots)
        calibration.knots[row] = torch.from_numpy(np.pad(knots, (0, missing), mode='edge'))
        calibration.values[row] = torch.from_numpy(np.pad(values, (0, missing), mode='edge'))
    return calibration, [mine is not None for mine in by_class]


def _check_arguments(method: str, min_matches: int) -> None:
    if method not in METHODS:
        raise UserError(f'method must be one of {", ".join(METHODS)}, got {method!r}')
    if min_matches < 1:
        raise UserError(f'min_matches must be at least 1, got {min_matches}')


def _isotonic(scores: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    isotonic, _ = _scikit_learn()
    regression = isotonic(y_min=0, y_max=1, increasing=True, out_of_bounds='clip').fit(scores, correct.astype(float))
    knots, values = regression.X_thresholds_.astype(np.float64), regression.y_thresholds_.astype(np.float64)
    return (knots, values) if len(knots) > 1 else (np.array([0.0, 1.0]), np.repeat(values, 2))


def _platt(scores: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Knots and values of the map; None if the map does not increase."""
    _, logistic = _scikit_learn()
    clipped = scores.clip(1e-7, 1 - 1e-7)
    logits = np.log(clipped / (1 - clipped))
    regression = logistic(C=1e6).fit(logits[:, None], correct)
    slope, offset = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    if slope <= 0:
        return None
    points = np.linspace(logits.min(), logits.max(), _PLATT_KNOTS)
    return 1 / (1 + np.exp(-points)), 1 / (1 + np.exp(-(slope * points + offset)))


def _scikit_learn() -> tuple[Callable, Callable]:
    try:
        from sklearn.isotonic import IsotonicRegression
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('calibration needs scikit-learn: pip install "bucketed-losses[mmdet]"') from error
    return IsotonicRegression, LogisticRegression


def reliability(
    scores: np.ndarray, correct: np.ndarray, num_bins: int = 25
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean score, precision and number of detections in bins of the score with equal width; empty bins have NaN means.

    Args:
        scores: ``(n,)`` in [0, 1].
        correct: ``(n,)`` bool, or another quantity that the scores should predict on average.
        num_bins: Number of bins between 0 and 1.
    """
    bins = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins).astype(float)
    with np.errstate(invalid='ignore'):
        return (
            np.bincount(bins, scores, num_bins) / count,
            np.bincount(bins, correct.astype(float), num_bins) / count,
            count,
        )


def calibrated(matches: Sequence[ClassMatches], calibration: ScoreCalibration) -> list[ClassMatches]:
    """The matches with the scores that ``calibration`` maps them to."""
    return [
        m._replace(scores=calibration(torch.from_numpy(m.scores), torch.full((len(m.scores),), label)).numpy())
        for label, m in enumerate(matches)
    ]


def cross_validated(
    matches: Sequence[ClassMatches], method: str = 'isotonic', min_matches: int = 50, folds: int = 5
) -> list[ClassMatches]:
    """The matches with cross-validated scores: the maps for each part of the images are fitted on the other parts.

    This shows how well a calibration works on data that it was not fitted on.

    Args:
        matches, method, min_matches: As for :func:`fit_calibration`.
        folds: Number of parts into which the images are divided.

    Raises:
        ImportError: Scikit-learn is not installed.
        UserError: As for :func:`fit_calibration`; or there are too few images or too few correct or incorrect
            detections to fit a map without one of the parts.
    """
    _check_arguments(method, min_matches)
    images = np.unique(np.concatenate([m.images for m in matches]))
    if len(images) < folds:
        raise UserError(
            f'cross-validation needs at least {folds} images with detections, got {len(images)}; calibrate on more '
            'images'
        )
    parts = np.array_split(np.random.default_rng(0).permutation(images), folds)
    held_out = []
    for part in parts:
        inside = [np.isin(m.images, part) for m in matches]
        others = [_subset(m, ~where) for m, where in zip(matches, inside, strict=True)]
        try:
            calibration, _ = fit_calibration(others, method, min_matches)
        except UserError as error:
            counts = [sum(int((m.correct == right).sum()) for m in matches) for right in (True, False)]
            raise UserError(
                f'{counts[0]} right and {counts[1]} wrong detections are too few for a cross-validation with {folds} '
                'parts: no map can be fitted without the images of one part; calibrate on more images'
            ) from error
        held_out.append(calibrated([_subset(m, where) for m, where in zip(matches, inside, strict=True)], calibration))
    return [_joined(of_class) for of_class in zip(*held_out, strict=True)]


def _joined(parts: Sequence[ClassMatches]) -> ClassMatches:
    scores, correct, ious, images = (np.concatenate([part[column] for part in parts]) for column in range(4))
    return ClassMatches(scores, correct, ious, images, parts[0].num_objects)


def _subset(matches: ClassMatches, where: np.ndarray) -> ClassMatches:
    scores, correct, ious, images, num_objects = matches
    return ClassMatches(scores[where], correct[where], ious[where], images[where], num_objects)


def calibration_errors(matches: Sequence[ClassMatches], num_bins: int = 25) -> CalibrationReport:
    """D-ECE of all detections, and LaECE, the mean over the classes that have detections.

    D-ECE is ``sum_j |D_j| / |D| * |mean score_j - precision_j|`` over bins j. LaECE of a class has
    ``precision_j * mean IoU_j`` in place of ``precision_j``, with the IoUs of the correct detections in the bin.
    """

    def error(scores: np.ndarray, quality: np.ndarray) -> float:
        confidence, mean, count = reliability(scores, quality, num_bins)
        return float(np.nansum(count * np.abs(confidence - mean)) / max(len(scores), 1))

    scores = np.concatenate([m.scores for m in matches])
    correct = np.concatenate([m.correct for m in matches])
    # precision * mean IoU of correct detections = mean over all detections of the IoU, with 0 for incorrect ones.
    by_class = [error(m.scores, np.where(m.correct, m.ious, 0.0)) for m in matches if len(m.scores)]
    return CalibrationReport(error(scores, correct), float(np.mean(by_class)))
