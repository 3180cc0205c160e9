"""The detections of a run's last validation, and its AP on resampled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict

from bucketed_losses.mmdet.engine.config import type_name
from bucketed_losses.mmdet.evaluation import load_annotations, resampled_average_precision

from .configs import classes_of
from .outcomes import FINISHED
from .plan import Run
from .store import Study, write_json

RESAMPLES = 1000
"""Resamples of the images, which are the same for all runs of a study."""


def save_detections(cfg: Config, folder: Path) -> None:
    """Let ``CocoMetric`` write the detections of each validation to ``folder``; the last validation stays."""
    evaluator = coco_evaluator(cfg)
    if evaluator is not None:
        evaluator.outfile_prefix = str(folder / 'detections')


def coco_evaluator(cfg: Config) -> ConfigDict | None:
    """The ``CocoMetric`` of boxes among the validation metrics of a config, or None."""
    evaluators = cfg.get('val_evaluator') or []
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        is_coco = type_name(evaluator.get('type')) == 'CocoMetric'
        metric = evaluator.get('metric', 'bbox')
        if is_coco and 'bbox' in ([metric] if isinstance(metric, str) else metric):
            return evaluator
    return None


def resample(study: Study, run: Run) -> None:
    """Write ``resampled.json`` into the folder of a finished run, unless it is there.

    Runs without detections, annotations or known classes, and trials, have none.

    It has the number of images, the AP, and the AP of each resample of the images.
    """
    folder = study.folder(*run.key)
    out, file = folder / 'resampled.json', folder / 'detections.bbox.json'
    result = study.result(*run.key)
    if run.is_trial or out.is_file() or not file.is_file() or result is None or result['outcome'] != FINISHED:
        return
    cfg = Config.fromfile(study.config(*run.key))
    evaluator = coco_evaluator(cfg)
    classes = classes_of(cfg.val_dataloader.dataset)
    truth = Path((evaluator or {}).get('ann_file') or folder / 'detections.gt.json')
    if evaluator is None or not classes or not truth.is_file():
        return
    annotations = load_annotations(truth)
    num_images = len(annotations.getImgIds())
    counts = image_counts(num_images)
    values = _ap_of(annotations, json.loads(file.read_text()), classes, np.vstack([np.ones_like(counts[:1]), counts]))
    write_json(out, dict(images=num_images, AP=values[0], resampled=values[1:].tolist()))


def image_counts(num_images: int) -> np.ndarray:
    """``(RESAMPLES, num_images)``: how often each image is drawn, with replacement; the same in every call."""
    return np.random.default_rng(0).multinomial(num_images, np.full(num_images, 1 / num_images), size=RESAMPLES)


def _ap_of(annotations: Any, found: list[dict], classes: list[str], counts: np.ndarray) -> np.ndarray:
    if not found:
        return np.zeros(len(counts))
    labels = {annotations.getCatIds(catNms=[name])[0]: label for label, name in enumerate(classes)}
    detections = [
        dict(image_id=one['image_id'], label=labels[one['category_id']], bbox=one['bbox'], score=one['score'])
        for one in found
    ]
    return resampled_average_precision(annotations, detections, classes, counts)
