"""Matches detections with ground-truth objects, class by class, as pycocotools does."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmdet.datasets import LVISV05Dataset
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ...errors import UserError


class ClassMatches(NamedTuple):
    """The detections of one class on a data set, in descending order of their scores within each image.

    Attributes:
        scores: ``(n,)`` float64.
        correct: ``(n,)`` bool, whether the detection is matched with an object at the IoU threshold. As in COCO's
            evaluation, each object is matched at most once, and detections with higher scores are matched first.
        ious: ``(n,)`` float64, IoU with the matched object, or 0 if there is none.
        images: ``(n,)`` int64 numbers of the images, in the order of their sorted ids.
        num_objects: Number of objects of the class, without crowds.
    """

    scores: np.ndarray
    correct: np.ndarray
    ious: np.ndarray
    images: np.ndarray
    num_objects: int


@METRICS.register_module()
class CollectDetections(BaseMetric):
    """A metric that collects the detections of all processes and computes no quality measure.

    Attributes:
        detections: After the evaluation, on the first process: dicts with ``image_id``, ``label``, ``bbox`` (x, y,
            width, height in pixels of the original image) and ``score``.
    """

    default_prefix = 'collect'

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.detections: list[dict] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            detected = sample['pred_instances']
            boxes = detected['bboxes'].double().cpu().numpy()
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            self.results.append(
                (sample['img_id'], boxes, detected['labels'].cpu().numpy(), detected['scores'].double().cpu().numpy())
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.detections = [
            dict(image_id=image_id, label=int(label), bbox=box.tolist(), score=float(score))
            for image_id, boxes, labels, scores in results
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
        return {'detections': float(len(self.detections))}


def coco_file(dataset: Any) -> str:
    """The COCO-style annotation file of a data set, or of the data set inside wrappers.

    Raises:
        UserError: The data set has no such file, or it is of LVIS, which annotates only some of the objects.
    """
    dataset = _unwrapped(dataset)
    if isinstance(dataset, LVISV05Dataset):
        raise UserError(
            f'{type(dataset).__name__}: LVIS does not annotate all objects of an image, so whether a detection is '
            'wrong is not known; use data of which all objects are annotated'
        )
    file = str(getattr(dataset, 'ann_file', ''))
    if not file.endswith('.json'):
        raise UserError(f'{type(dataset).__name__} needs COCO-style annotations in a .json file, got {file or "none"}')
    return file


def label_names(dataset: Any, annotations: COCO) -> list[str]:
    """The names of a data set's labels, label 0 first.

    MMDetection numbers labels in the order of the categories in the file, which may not be that of the classes in the
    config. Other data sets have the order of their classes.

    Args:
        dataset: A data set, possibly inside wrappers.
        annotations: Its annotations.
    """
    dataset = _unwrapped(dataset)
    if hasattr(dataset, 'cat_ids'):
        return [category['name'] for category in annotations.loadCats(dataset.cat_ids)]
    return list(dataset.metainfo.get('classes', ()))


def _unwrapped(dataset: Any) -> Any:
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset


def load_annotations(file: str | Path, backend_args: dict | None = None) -> COCO:
    """Load COCO annotations, if need be through a storage backend, and suppress the report that pycocotools prints."""
    with get_local_path(file, backend_args=backend_args) as path, contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def annotations_of(dataset: Any) -> COCO:
    """The annotations of a data set, or of the data set inside wrappers; errors as for :func:`coco_file`."""
    return load_annotations(coco_file(dataset), getattr(_unwrapped(dataset), 'backend_args', None))


def evaluate_detections(
    annotations: COCO, detections: Sequence[dict], classes: Sequence[str], iou_thrs: Sequence[float] | None
) -> tuple[COCOeval, list[int]]:
    """COCO's evaluation with matched detections, and the category ids of the classes.

    Arguments and errors as for :func:`match_detections`; ``iou_thrs`` are the IoU thresholds, or None for COCO's.
    """
    by_name = {category['name']: category['id'] for category in annotations.loadCats(annotations.getCatIds())}
    unknown = [name for name in classes if name not in by_name]
    if unknown:
        raise UserError(f'classes {unknown} are not among the categories of the annotations, {sorted(by_name)}')
    ids = [by_name[name] for name in classes]
    foreign = sorted({str(d['image_id']) for d in detections if d['image_id'] not in annotations.imgs})
    if foreign:
        some = ', '.join(foreign[:5]) + (', …' if len(foreign) > 5 else '')
        raise UserError(f'there are detections on images that the annotations do not contain: image ids {some}')
    labels = {d['label'] for d in detections}
    if labels and not 0 <= min(labels) <= max(labels) < len(ids):
        wrong = sorted(label for label in labels if not 0 <= label < len(ids))
        raise UserError(f'there are detections with the labels {wrong[:5]}, but {len(ids)} classes: {list(classes)}')
    found = [
        dict(image_id=d['image_id'], category_id=ids[d['label']], bbox=d['bbox'], score=d['score']) for d in detections
    ]
    if not found:
        raise UserError('there are no detections; lower score_thr, or check that the checkpoint is trained')
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = _complete(annotations)
        evaluation = COCOeval(annotations, annotations.loadRes(found), 'bbox')
        evaluation.params.catIds = ids
        if iou_thrs is not None:
            evaluation.params.iouThrs = np.array(iou_thrs)
        evaluation.evaluate()
    return evaluation, ids


def _complete(annotations: COCO) -> COCO:
    """A copy with what COCO's evaluation needs: ``iscrowd``, 0 where the file does not say, and ids from 1.

    pycocotools takes an object with the id 0 for no object, and needs ids that are numbers.
    """
    copy = COCO()
    given = annotations.dataset['annotations']
    objects = [{'iscrowd': 0, **annotation, 'id': number} for number, annotation in enumerate(given, 1)]
    copy.dataset = {**annotations.dataset, 'annotations': objects}
    copy.createIndex()
    return copy


def match_detections(
    annotations: COCO, detections: Sequence[dict], classes: Sequence[str], iou_thr: float = 0.5
) -> list[ClassMatches]:
    """Match detections with objects as COCO's evaluation does, at one IoU threshold.

    Objects of all areas count, and at most 100 detections per image and class. Detections that are matched with a crowd
    are left out: COCO counts them neither as correct nor as incorrect.

    Args:
        annotations: Ground truth.
        detections: As :class:`CollectDetections` keeps them.
        classes: Names of the classes, in the order of the labels.
        iou_thr: The smallest IoU of a correct detection with its object, in (0, 1].

    Returns:
        One item per class.

    Raises:
        UserError: There are no detections, a class is not among the categories, or a detection is on an unknown image
            or of an unknown class.
    """
    evaluation, ids = evaluate_detections(annotations, detections, classes, [iou_thr])
    parts: dict[int, list[tuple[np.ndarray, ...]]] = {category: [] for category in ids}
    num_objects = dict.fromkeys(ids, 0)
    number_of = {image_id: number for number, image_id in enumerate(evaluation.params.imgIds)}
    all_areas = evaluation.params.areaRng[0]
    for image in evaluation.evalImgs:
        if image is None or image['aRng'] != all_areas:
            continue
        category, image_id = image['category_id'], image['image_id']
        num_objects[category] += int((~np.array(image['gtIgnore'], dtype=bool)).sum())
        matched = np.array(image['dtMatches'][0]).astype(np.int64)
        keep = ~np.array(image['dtIgnore'][0], dtype=bool)
        columns = {gt['id']: column for column, gt in enumerate(evaluation._gts[image_id, category])}
        table = evaluation.ious[image_id, category]
        ious = np.array([table[row][columns[gt]] if gt else 0.0 for row, gt in enumerate(matched)])
        parts[category].append(
            (
                np.array(image['dtScores'], dtype=np.float64)[keep],
                (matched > 0)[keep],
                ious[keep] if len(keep) else np.zeros(0),
                np.full(int(keep.sum()), number_of[image_id], dtype=np.int64),
            )
        )
    matches = []
    for category in ids:
        columns_of = list(zip(*parts[category], strict=True)) or [(np.zeros(0),)] * 4
        scores, correct, ious, images = (np.concatenate(column) for column in columns_of)
        matches.append(ClassMatches(scores, correct.astype(bool), ious, images.astype(np.int64), num_objects[category]))
    return matches


def precision_recall(
    annotations: COCO, detections: Sequence[dict], classes: Sequence[str], iou_thrs: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Recalls ``(101,)``, and COCO's interpolated precision at each of them, ``(num_ious, 101, num_classes)``.

    Arguments and errors as for :func:`match_detections`. The precision of a class without objects is NaN: COCO leaves
    it out of AP.
    """
    evaluation, ids = evaluate_detections(annotations, detections, classes, iou_thrs)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    order = [list(evaluation.params.catIds).index(category) for category in ids]  # pycocotools sorts them
    precision = evaluation.eval['precision'][:, :, order, 0, -1]
    return evaluation.params.recThrs, np.where(precision < 0, np.nan, precision)


def average_precision(annotations: COCO, detections: Sequence[dict], classes: Sequence[str]) -> float:
    """COCO's AP, the mean over IoU 0.5 to 0.95; arguments as for :func:`match_detections`."""
    evaluation, _ = evaluate_detections(annotations, detections, classes, None)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])
