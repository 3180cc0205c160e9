"""The reliability diagram: precision over score in bins of equal mass, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...figure_style import BACKGROUND, GUIDE, NEGATIVES, POSITIVES, figure_style, new_figure, save
from .calibration import CalibrationReport
from .matches import ClassMatches

Panel = tuple[Sequence[ClassMatches], CalibrationReport]
# The 97.5 % quantile of the normal distribution: intervals of 95 %.
_QUANTILE = 1.959964
# Enough detections in a bin for an interval that says something, and enough bins for a curve: most detections of a
# detector have low scores, so that few of the bins are left for high ones.
_MOST_BINS = 50
_FEWEST_IN_A_BIN = 100


class EqualMassBins(NamedTuple):
    """Bins of the score that hold (nearly) equally many detections, from the lowest scores to the highest.

    Attributes:
        first: The lowest score of each bin, ``(num_bins,)``, as all others.
        last: The highest score.
        score: The mean score.
        precision: The share of correct detections.
        low: Lower end of the 95 % Wilson interval of the precision.
        high: Upper end of it.
        number: Number of detections.
    """

    first: np.ndarray
    last: np.ndarray
    score: np.ndarray
    precision: np.ndarray
    low: np.ndarray
    high: np.ndarray
    number: np.ndarray


def equal_mass_bins(scores: np.ndarray, correct: np.ndarray, num_bins: int | None = None) -> EqualMassBins:
    """Precision in bins of equal mass, with Wilson's score interval (Wilson, JASA 22(158), 1927).

    Detections with the same score are in the same bin, so that ties make fewer and larger bins. Errors of calibration
    (:func:`~bucketed_losses.mmdet.evaluation.calibration_errors`) are not computed from these bins: D-ECE and LaECE
    are defined with bins of equal width.

    Args:
        scores: ``(n,)`` in [0, 1].
        correct: ``(n,)`` bool.
        num_bins: The largest number of bins. If None, 50, or fewer so that each has at least 100 detections, if ties
            do not divide them otherwise.

    Returns:
        The bins; none if there are no detections.

    Raises:
        ValueError: ``num_bins`` is below 1.
    """
    if num_bins is None:
        num_bins = min(max(len(scores) // _FEWEST_IN_A_BIN, 1), _MOST_BINS)
    if num_bins < 1:
        raise ValueError(f'num_bins must be at least 1, got {num_bins}')
    order = np.argsort(scores, kind='stable')
    scores, correct = np.asarray(scores)[order], np.asarray(correct, dtype=bool)[order]
    if not len(scores):
        return EqualMassBins(*(np.zeros(0) for _ in EqualMassBins._fields))
    wanted = np.arange(num_bins) * len(scores) // num_bins
    # The first detection of every bin is the first one with its score.
    starts = np.unique(np.searchsorted(scores, scores[wanted], side='left'))
    ends = np.append(starts[1:], len(scores))
    count = (ends - starts).astype(float)
    precision = np.add.reduceat(correct.astype(float), starts) / count
    low, high = wilson_interval(precision, count)
    return EqualMassBins(
        scores[starts], scores[ends - 1], np.add.reduceat(scores, starts) / count, precision, low, high, count
    )


def wilson_interval(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % score interval of a share of ``count`` trials; it lies in [0, 1] and is not empty at 0 and 1.

    Args:
        share: ``(n,)`` in [0, 1].
        count: ``(n,)`` above 0.
    """
    square = _QUANTILE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _QUANTILE / (1 + square / count) * np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    # Shares of 0 and 1 are ends of their intervals; rounding must not put them outside.
    return np.clip(middle - half, 0.0, share), np.clip(middle + half, share, 1.0)


@figure_style()
def draw_reliability(panels: Mapping[str, Panel], iou_thr: float, out: str | Path) -> None:
    """Write a PNG file: precision over score with intervals, and below it how many detections have which score.

    Args:
        panels: Matches of all classes and their calibration errors, by the title of the panel.
        iou_thr: The IoU from which a detection is correct.
        out: The file.
    """
    figure, axes = new_figure(2, len(panels), (4.2 * len(panels), 5.0), height_ratios=[3, 1], sharex=True)
    for (title, (matches, errors)), top, bottom in zip(panels.items(), axes[0], axes[1], strict=True):
        scores, correct = (np.concatenate([m[i] for m in matches]) for i in (0, 1))
        bins = equal_mass_bins(scores, correct)
        top.plot([0, 1], [0, 1], color=GUIDE, linewidth=1.2, linestyle='--', zorder=2)
        top.errorbar(
            bins.score, bins.precision, yerr=[bins.precision - bins.low, bins.high - bins.precision],
            xerr=[bins.score - bins.first, bins.last - bins.score], color=POSITIVES, fmt='o', markersize=3.5,
            linewidth=1.1, zorder=3,
        )  # fmt: skip
        # In the corner that the points leave free: scores that are too high lie below the diagonal.
        above = np.average(bins.precision - bins.score, weights=bins.number) > 0 if len(bins.number) else False
        place, across, up = ((0.97, 0.05), 'right', 'bottom') if above else ((0.03, 0.95), 'left', 'top')
        text = f'D-ECE {errors.d_ece:.3f}\nLaECE {errors.la_ece:.3f}'
        top.annotate(text, place, xycoords='axes fraction', ha=across, va=up)
        top.set(title=title, xlim=(0, 1), ylim=(-0.02, 1.02))
        bottom.hist(scores, np.linspace(0, 1, 26), color=NEGATIVES, edgecolor=BACKGROUND, linewidth=0.5, zorder=3)
        bottom.set(xlabel='score', yscale='log' if len(scores) else 'linear')
    axes[0, 0].set_ylabel(f'precision at IoU {iou_thr:g}')
    axes[1, 0].set_ylabel('detections')
    size = f'{np.median(bins.number):.0f} detections' if len(bins.number) else 'no detections'
    figure.supxlabel(
        f'Points: bins of about {size}; bars: their scores, and the 95 % Wilson interval of the precision.\n'
        'D-ECE and LaECE: 25 bins of equal width, as their papers define them.',
        fontsize=8.5,
    )
    save(figure, out)
