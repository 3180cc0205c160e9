"""Pictures of a ranking: histograms of the logits, and precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...figure_style import GUIDE, NEGATIVES, POSITIVES, figure_style, looks_of, name_of_place, new_figure

# Logits outside [-_RANGE, _RANGE] are counted in the outermost bins.
_RANGE = 15.0
_BINS = 120


def count_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Histograms of the logits of negatives and positives; logits that are not finite are left out.

    Args:
        logits: ``(n, num_classes)``.
        targets: ``(n, num_classes)``: 0 negative, above 0 positive, below 0 ignored.

    Returns:
        ``(2, num_bins)`` int64: the counts of the negatives, then of the positives.
    """
    finite = logits.isfinite().flatten()
    bins = (logits.float().nan_to_num(0.0, 0.0, 0.0) / (2 * _RANGE) + 0.5) * _BINS
    bins = bins.clamp(0, _BINS - 1).long().flatten()
    targets = targets.flatten()
    counts = torch.zeros(2, _BINS, dtype=torch.long, device=bins.device)
    counts[0].scatter_add_(0, bins, (finite & (targets == 0)).long())
    counts[1].scatter_add_(0, bins, (finite & (targets > 0)).long())
    return counts


@figure_style()
def draw_logits(counts: Mapping[str, Tensor], epoch: int) -> np.ndarray:
    """Draw the histograms of :func:`count_logits`, one panel for each loss.

    Args:
        counts: The histograms ``(2, num_bins)`` by the path of the loss in the detector.
        epoch: Number of the epoch; it appears in the titles.

    Returns:
        ``(height, width, 3)`` uint8, RGB. The panel of a loss without logits shows the text 'no logits'.
    """
    figure = _figure(len(counts))
    edges = np.linspace(-_RANGE, _RANGE, _BINS + 1)
    for axis, (name, both) in zip(figure.axes, counts.items(), strict=True):
        axis.set(title=f'{name_of_place(name)}, epoch {epoch}', xlabel='logit', ylabel='share of its kind')
        used = np.nonzero(both.sum(dim=0).cpu().numpy())[0]
        if not len(used):
            axis.text(0.5, 0.5, 'no logits', ha='center', transform=axis.transAxes)
            continue
        for count, label, colour in zip(
            both.cpu().numpy(), ('negatives', 'positives'), (NEGATIVES, POSITIVES), strict=True
        ):
            axis.stairs(count / max(count.sum(), 1), edges, fill=True, alpha=0.6, color=colour, label=label)
        axis.set_xlim(edges[used[0]] - 0.5, edges[used[-1] + 1] + 0.5)
        axis.legend()
    return _pixels(figure)


@figure_style()
def draw_precision_recall(
    recall: np.ndarray, precision: np.ndarray, classes: Sequence[str], iou_thrs: Sequence[float], most: int = 12
) -> np.ndarray:
    """Draw the curves of the classes that have objects, one panel for each IoU threshold.

    Args:
        recall: ``(num_points,)``.
        precision: ``(num_ious, num_points, num_classes)``, NaN for a class without objects.
        classes: Names of the classes.
        iou_thrs: The IoU thresholds.
        most: The largest number of classes to draw. If there are more, those with the lowest AP are drawn. With
            several classes, the mean curve of all of them is drawn too.

    Returns:
        ``(height, width, 3)`` uint8, RGB.
    """
    figure = _figure(len(iou_thrs))
    for axis, iou_thr, by_class in zip(figure.axes, iou_thrs, precision, strict=True):
        axis.set(title=f'IoU {iou_thr:g}', xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
        ap = by_class.mean(axis=0)
        present = np.flatnonzero(~np.isnan(ap))
        if not len(present):
            axis.text(0.5, 0.5, 'no objects', ha='center', transform=axis.transAxes)
            continue
        drawn = present[np.argsort(ap[present])][:most]
        for label, look in zip(drawn, looks_of(f'class {label}' for label in drawn).values(), strict=True):
            axis.plot(recall, by_class[:, label], label=f'{classes[label]} {ap[label]:.3f}', **look.line)
        if len(classes) > 1:
            mean = by_class[:, present].mean(axis=1)
            axis.plot(recall, mean, color=GUIDE, linewidth=2.6, label=f'mean {mean.mean():.3f}', zorder=5)
        axis.legend(title='AP', fontsize='small')
    return _pixels(figure)


def _figure(panels: int) -> Any:
    figure, _ = new_figure(1, panels, (4.8 * panels, 3.8))
    return figure


def _pixels(figure: Any) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
