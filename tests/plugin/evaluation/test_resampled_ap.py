"""AP on resampled images equals pycocotools on a data set with copies of the images."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

pytest.importorskip('mmdet')

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.evaluation import average_precision, resampled_ap, resampled_average_precision

CLASSES = ('a', 'b', 'c')
IMAGES = [3, 7, 8, 20, 21]


def small_set(rng):
    """Ground truth with crowds and an image without objects, and detections near objects and elsewhere."""
    truth, found = [], []
    for image in IMAGES[:-1]:
        for _ in range(rng.integers(2, 6)):
            x, y = rng.uniform(0, 60, 2)
            w, h = rng.uniform(10, 40, 2)
            label = int(rng.integers(0, 2))  # no object of class c
            crowd = int(rng.random() < 0.2)
            truth.append(
                dict(id=len(truth) + 1, image_id=image, category_id=10 * (label + 1), bbox=[x, y, w, h], area=w * h,
                     iscrowd=crowd)
            )  # fmt: skip
            for _ in range(rng.integers(0, 4)):
                box = np.array([x, y, w, h]) + rng.normal(0, 2.5, 4)
                found.append(dict(image_id=image, label=label, bbox=box.tolist(), score=float(rng.random())))
    for _ in range(25):
        image = int(rng.choice(IMAGES))
        box = [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)]
        found.append(dict(image_id=image, label=int(rng.integers(0, 3)), bbox=box, score=float(rng.random())))
    return truth, found


def ground_truth(images, annotations):
    coco = COCO()
    coco.dataset = dict(
        images=[dict(id=image, width=100, height=100) for image in images],
        annotations=annotations,
        categories=[dict(id=10 * (index + 1), name=name) for index, name in enumerate(CLASSES)],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def ap_of_copies(truth, found, counts):
    """COCO's AP of a data set in which each image occurs as often as its count."""
    images, annotations, detections = [], [], []
    for image, count in zip(IMAGES, counts, strict=True):
        for copy in range(count):
            new = 100 * image + copy
            images.append(new)
            for one in truth:
                if one['image_id'] == image:
                    annotations.append({**one, 'id': len(annotations) + 1, 'image_id': new})
            for one in found:
                if one['image_id'] == image:
                    own = dict(image_id=new, category_id=10 * (one['label'] + 1), bbox=one['bbox'], score=one['score'])
                    detections.append(own)
    coco = ground_truth(images, annotations)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(detections), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('chunk', [10**9, 1])
def test_copies_of_images(seed, chunk, monkeypatch):
    monkeypatch.setattr(resampled_ap, 'CHUNK', chunk)
    rng = np.random.default_rng(seed)
    truth, found = small_set(rng)
    counts = np.vstack([np.ones(5, int), rng.multinomial(5, [0.2] * 5, size=6), [0, 3, 1, 0, 1]])
    values = resampled_average_precision(ground_truth(IMAGES, truth), found, CLASSES, counts)
    expected = [ap_of_copies(truth, found, row) for row in counts]
    assert 0.05 < expected[0] < 0.95 and len(set(expected)) > 4
    np.testing.assert_allclose(values, expected, atol=1e-12)
    assert values[0] == pytest.approx(average_precision(ground_truth(IMAGES, truth), found, CLASSES), abs=1e-12)


def test_resamples_without_objects_have_no_ap():
    truth, found = small_set(np.random.default_rng(0))
    values = resampled_average_precision(
        ground_truth(IMAGES, truth), found, CLASSES, np.array([[0, 0, 0, 0, 5], [1, 1, 1, 1, 1]])
    )
    assert np.isnan(values[0]) and values[1] > 0


def test_a_class_without_detections_has_ap_0():
    truth, found = small_set(np.random.default_rng(0))
    coco = ground_truth(IMAGES, truth)
    ones = np.ones((1, 5), int)
    only_a = [one for one in found if one['label'] == 0]
    both = resampled_average_precision(coco, only_a, CLASSES, ones)
    alone = resampled_average_precision(coco, only_a, CLASSES[:1], ones)
    assert both == pytest.approx(alone / 2)


def test_detections_on_unknown_images_are_refused():
    truth, found = small_set(np.random.default_rng(0))
    with pytest.raises(UserError, match='image ids 99'):
        resampled_average_precision(
            ground_truth(IMAGES, truth), [{**found[0], 'image_id': 99}], CLASSES, np.ones((1, 5), int)
        )
