"""COCO's AP on resampled images: the bootstrap over the images of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO

from .matches import evaluate_detections

RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads precision."""
CHUNK = 4_000_000
"""Numbers in one array of a chunk of resamples."""


def resampled_average_precision(
    annotations: COCO, detections: Sequence[dict], classes: Sequence[str], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """COCO's AP if each image occurs as often as a count says, for many vectors of counts.

    The detections are matched with the objects once, because the images of COCO's evaluation are matched separately.
    The result equals ``pycocotools`` on a data set with copies of the images.

    Args:
        annotations: Ground truth.
        detections: As :class:`CollectDetections` keeps them.
        classes: Names of the classes, in the order of the labels.
        counts: ``(resamples, num_images)``; the images are in the order of their sorted ids.

    Returns:
        ``(resamples,)`` APs in [0, 1], the mean over IoU 0.5 to 0.95 and over the classes that have objects. NaN if no
        class has objects.

    Raises:
        UserError: As :func:`match_detections`.
    """
    evaluation, ids = evaluate_detections(annotations, detections, classes, None)
    images = {image: index for index, image in enumerate(evaluation.params.imgIds)}
    all_areas = evaluation.params.areaRng[0]
    records = [record for record in evaluation.evalImgs if record is not None and record['aRng'] == all_areas]
    per_class = []
    for category in ids:
        own = [record for record in records if record['category_id'] == category]
        per_class.append(_class_ap(_flatten(own, images, len(evaluation.params.iouThrs)), counts))
    table = np.stack(per_class)
    present = ~np.isnan(table)
    with np.errstate(invalid='ignore'):
        return np.where(present, table, 0.0).sum(0) / present.sum(0)


class _Matches(NamedTuple):
    """The detections of one class, in descending order of their scores."""

    images: NDArray[np.int64]
    """``(n,)`` indices of their images."""
    correct: NDArray[np.bool_]
    """``(ious, n)``, matched with an object."""
    counted: NDArray[np.bool_]
    """``(ious, n)``, not matched with a crowd."""
    objects: NDArray[np.int64]
    """``(num_images,)`` objects of the class, without crowds."""


def _flatten(records: Sequence[dict], images: dict[int, int], num_ious: int) -> _Matches:
    objects = np.zeros(len(images), dtype=np.int64)
    for record in records:
        objects[images[record['image_id']]] = (~np.array(record['gtIgnore'], dtype=bool)).sum()
    with_detections = [record for record in records if record['dtScores']]
    if not with_detections:
        nothing = np.zeros((num_ious, 0), dtype=bool)
        return _Matches(np.zeros(0, dtype=np.int64), nothing, nothing, objects)
    scores = np.concatenate([record['dtScores'] for record in with_detections])
    order = np.argsort(-scores, kind='mergesort')
    correct = np.concatenate([record['dtMatches'] > 0 for record in with_detections], axis=1)
    ignored = np.concatenate([record['dtIgnore'].astype(bool) for record in with_detections], axis=1)
    of_image = np.concatenate(
        [np.full(len(record['dtScores']), images[record['image_id']]) for record in with_detections]
    )
    return _Matches(of_image[order], correct[:, order], ~ignored[:, order], objects)


def _class_ap(matches: _Matches, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(resamples,)`` AP of one class; NaN if it has no objects."""
    num_objects = counts @ matches.objects
    values = np.zeros(len(counts))
    num_ious, num_detections = matches.correct.shape
    if num_detections:
        size = max(CHUNK // (num_ious * num_detections), 1)
        for begin in range(0, len(counts), size):
            chunk = slice(begin, begin + size)
            values[chunk] = _chunk_ap(matches, counts[chunk], num_objects[chunk])
    return np.where(num_objects > 0, values, np.nan)


def _chunk_ap(matches: _Matches, counts: NDArray[np.int64], num_objects: NDArray[np.int64]) -> NDArray[np.float64]:
    copies = np.take(counts, matches.images, axis=1)[:, None].astype(np.float64)
    true = np.cumsum(copies * (matches.correct & matches.counted), axis=2)
    false = np.cumsum(copies * (~matches.correct & matches.counted), axis=2)
    recall = np.ascontiguousarray(true / np.maximum(num_objects, 1)[:, None, None])
    precision = true / (true + false + np.spacing(1))
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    thresholds = np.broadcast_to(RECALLS, (*recall.shape[:2], len(RECALLS)))
    first = torch.searchsorted(torch.from_numpy(recall), torch.from_numpy(thresholds.copy())).numpy()
    reached = first < recall.shape[2]
    read = np.take_along_axis(envelope, np.minimum(first, recall.shape[2] - 1), axis=2)
    return np.where(reached, read, 0.0).mean(axis=(1, 2))
