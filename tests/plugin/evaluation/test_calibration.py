"""Matching, maps from score to precision, calibration errors: against loops and definitions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('mmdet')
pytest.importorskip('sklearn')

from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from pycocotools.coco import COCO
from torch.utils._python_dispatch import TorchDispatchMode

from bucketed_losses.cli.calibrate import write_config
from bucketed_losses.mmdet.evaluation import (
    ClassMatches,
    annotations_of,
    average_precision,
    calibrated,
    calibration_errors,
    cross_validated,
    fit_calibration,
    label_names,
    match_detections,
    precision_recall,
    reliability,
)
from bucketed_losses.mmdet.models.detectors import ScoreCalibration, take_score_threshold

CLASSES = ('cat', 'dog')


def dataset(seed=0, images=12):
    """Random objects and detections around them; categories in another order than the classes."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(images):
        for _ in range(rng.integers(0, 5)):
            x, y, w, h = rng.uniform(0, 60, 2).tolist() + rng.uniform(10, 40, 2).tolist()
            label = int(rng.integers(2))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=(9, 4)[label],
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                )
            )
            for _ in range(rng.integers(0, 4)):
                box = (np.array([x, y, w, h]) + rng.normal(0, 4, 4)).clip(1).tolist()
                detections.append(dict(image_id=image, label=label, bbox=box, score=float(rng.random())))
        for _ in range(rng.integers(0, 3)):
            box = rng.uniform(1, 50, 4).tolist()
            detections.append(dict(image_id=image, label=int(rng.integers(2)), bbox=box, score=float(rng.random())))
    coco = COCO()
    coco.dataset = dict(
        images=[dict(id=i, width=128, height=128) for i in range(images)],
        categories=[dict(id=4, name='dog'), dict(id=9, name='cat')],
        annotations=annotations,
        info={},
    )
    coco.createIndex()
    return coco, detections


def iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)


def slow_matches(coco, detections, label, iou_thr):
    """Each detection, from the highest score down, takes the free object it overlaps most, if enough."""
    category = (9, 4)[label]
    rows = []
    for image in coco.dataset['images']:
        objects = [
            a for a in coco.dataset['annotations'] if (a['image_id'], a['category_id']) == (image['id'], category)
        ]
        found = [d for d in detections if (d['image_id'], d['label']) == (image['id'], label)]
        taken = set()
        for detection in sorted(found, key=lambda d: -d['score']):
            overlaps = [(iou(detection['bbox'], o['bbox']), o['id']) for o in objects if o['id'] not in taken]
            best = max(overlaps, default=(0.0, None))
            right = best[0] >= iou_thr
            if right:
                taken.add(best[1])
            rows.append((detection['score'], right, best[0] if right else 0.0, image['id']))
    return rows


@pytest.mark.parametrize('iou_thr', [0.3, 0.5, 0.75])
def test_matches_equal_a_greedy_loop(iou_thr):
    coco, detections = dataset()
    for label, matches in enumerate(match_detections(coco, detections, CLASSES, iou_thr)):
        expected = slow_matches(coco, detections, label, iou_thr)
        assert 0 < sum(row[1] for row in expected) < len(expected)
        got = list(zip(matches.scores, matches.correct, matches.ious, matches.images, strict=True))
        assert len(got) == len(expected)
        for a, b in zip(sorted(got), sorted(expected), strict=True):
            assert a == pytest.approx(b, rel=1e-6)
        assert matches.num_objects == sum(a['category_id'] == (9, 4)[label] for a in coco.dataset['annotations'])


def test_crowds_are_neither_right_nor_wrong():
    coco, _ = dataset()
    coco.dataset['annotations'] = [
        dict(id=1, image_id=0, category_id=9, bbox=[10, 10, 80, 80], area=6400, iscrowd=1),
        dict(id=2, image_id=0, category_id=9, bbox=[100, 100, 20, 20], area=400, iscrowd=0),
    ]
    coco.createIndex()
    boxes = [[20, 20, 20, 20], [100, 100, 20, 20], [0, 100, 10, 10]]
    detections = [dict(image_id=0, label=0, bbox=box, score=0.9 - i / 10) for i, box in enumerate(boxes)]
    cat, dog = match_detections(coco, detections, CLASSES)
    assert cat.scores.tolist() == pytest.approx([0.8, 0.7]) and cat.correct.tolist() == [True, False]
    assert cat.num_objects == 1 and len(dog.scores) == 0


def test_an_object_is_no_crowd_unless_the_file_says_so():
    coco, detections = dataset()
    expected = match_detections(coco, detections, CLASSES), average_precision(coco, detections, CLASSES)
    for annotation in coco.dataset['annotations']:
        del annotation['iscrowd']
    got = match_detections(coco, detections, CLASSES), average_precision(coco, detections, CLASSES)
    for a, b in zip(got[0], expected[0], strict=True):
        assert all(np.array_equal(*pair) for pair in zip(a, b, strict=True))
    assert got[1] == expected[1]
    assert all('iscrowd' not in annotation for annotation in coco.dataset['annotations'])


@pytest.mark.parametrize('name', [lambda number: number, 'object_{:03}'.format], ids=['from 0', 'strings'])
def test_ids_of_annotations_do_not_count(name):
    """Neither those from 0, which pycocotools takes for no object, nor strings."""
    coco, detections = dataset()
    expected = match_detections(coco, detections, CLASSES), average_precision(coco, detections, CLASSES)
    for number, annotation in enumerate(coco.dataset['annotations']):
        annotation['id'] = name(number)
    coco.createIndex()
    got = match_detections(coco, detections, CLASSES), average_precision(coco, detections, CLASSES)
    for a, b in zip(got[0], expected[0], strict=True):
        assert all(np.array_equal(*pair) for pair in zip(a, b, strict=True))
    assert got[1] == expected[1]


def test_ids_of_images_may_be_strings():
    coco, detections = dataset()
    expected = match_detections(coco, detections, CLASSES)
    for image in coco.dataset['images']:
        image['id'] = f'img_{image["id"]:03}'
    for one in (*coco.dataset['annotations'], *detections):
        one['image_id'] = f'img_{one["image_id"]:03}'
    coco.createIndex()
    got = match_detections(coco, detections, CLASSES)
    for a, b in zip(got, expected, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(a, b, strict=True))


def test_unknown_classes_and_no_detections_are_named():
    coco, detections = dataset()
    with pytest.raises(ValueError, match=r"\['bird'\].*\['cat', 'dog'\]"):
        match_detections(coco, detections, ('cat', 'bird'))
    with pytest.raises(ValueError, match='no detections'):
        match_detections(coco, [], CLASSES)
    for label in (2, -1):
        with pytest.raises(ValueError, match=rf"labels \[{label}\], but 2 classes: \['cat', 'dog'\]"):
            match_detections(coco, [*detections, {**detections[0], 'label': label}], CLASSES)


def test_at_most_100_detections_of_an_image_and_a_class_count():
    coco, detections = dataset()
    many = [{**detections[0], 'label': label, 'score': i / 200} for label in (0, 1) for i in range(150)]
    assert [len(match.scores) for match in match_detections(coco, many, CLASSES)] == [100, 100]


class Dataset:
    """What names labels: MMDetection's data set of COCO files, which numbers them in the order of the file."""

    metainfo = dict(classes=CLASSES)

    def __init__(self, coco):
        self.cat_ids = [category['id'] for category in coco.dataset['categories'] if category['name'] in CLASSES]


def test_labels_are_named_in_the_order_of_the_file():
    coco, _ = dataset(images=20)
    loaded = Dataset(coco)
    names = label_names(SimpleNamespace(dataset=loaded), coco)
    assert names == ['dog', 'cat']
    assert label_names(SimpleNamespace(metainfo=dict(classes=CLASSES)), coco) == ['cat', 'dog']
    perfect = [
        dict(image_id=a['image_id'], label=loaded.cat_ids.index(a['category_id']), bbox=a['bbox'], score=0.9)
        for a in coco.dataset['annotations']
    ]
    assert average_precision(coco, perfect, names) == pytest.approx(1)
    assert all(m.correct.all() and len(m.correct) == m.num_objects > 0 for m in match_detections(coco, perfect, names))


def test_annotations_are_read_through_a_storage_backend(tmp_path):
    class Elsewhere(LocalBackend):
        def get_local_path(self, filepath):
            return super().get_local_path(str(filepath).replace('data/far', str(tmp_path)))

    coco, _ = dataset()
    (tmp_path / 'a.json').write_text(json.dumps(coco.dataset))
    register_backend('Elsewhere', Elsewhere, force=True)
    loaded = SimpleNamespace(ann_file='data/far/a.json', backend_args=dict(backend='Elsewhere'))
    assert annotations_of(SimpleNamespace(dataset=loaded)).dataset == coco.dataset
    assert annotations_of(SimpleNamespace(ann_file=str(tmp_path / 'a.json'))).dataset == coco.dataset


def test_curves_are_in_the_order_of_the_classes():
    """pycocotools sorts category ids, and here that of the first class is the larger one."""
    coco, _ = dataset(images=20)
    cats = [a for a in coco.dataset['annotations'] if a['category_id'] == 9]
    perfect = [dict(image_id=a['image_id'], label=0, bbox=a['bbox'], score=0.9) for a in cats]
    _, precision = precision_recall(coco, perfect, CLASSES, (0.5,))
    assert precision.shape == (1, 101, 2)
    assert precision[0].mean(axis=0).tolist() == pytest.approx([1, 0])


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30, unique=True),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8),
)
def test_maps_increase_strictly_whatever_they_were_fitted_to(scores, points):
    """Also neighbouring float32 scores on a plateau: no ties, no other order, so the same AP."""
    calibration = ScoreCalibration(1, len(points))
    knots, values = (sorted(column) for column in zip(*points, strict=True))
    calibration.knots[0], calibration.values[0] = torch.tensor(knots).double(), torch.tensor(values).double()
    x = torch.tensor(sorted(scores), dtype=torch.float32)
    mapped = calibration(x, torch.zeros(len(x), dtype=torch.long))
    gaps = x.double().diff()
    assert (mapped.diff()[gaps > 1e-12] > 0).all()
    assert mapped.min() >= 0 and mapped.max() <= 1


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]), min_size=2, max_size=9),
    st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.95, 1.0]), max_size=20),
)
def test_a_map_interpolates_between_its_knots(knots, scores):
    """Also with several knots at the same score: the value is that of the first of them."""
    calibration = ScoreCalibration(2, len(knots))
    calibration.knots[1] = torch.tensor(sorted(knots)).double()
    calibration.values[1] = torch.linspace(0.2, 0.8, len(knots)).double()
    x, y = calibration.knots[1].tolist(), calibration.values[1].tolist()

    def mapped(score):
        right = min(max(sum(knot < score for knot in x), 1), len(x) - 1)
        width = x[right] - x[right - 1]
        share = min(max((score - x[right - 1]) / width, 0), 1) if width else float(score > x[right - 1])
        return 0.999 * (y[right - 1] + share * (y[right] - y[right - 1])) + 0.001 * score

    got = calibration(torch.tensor(scores).double(), torch.ones(len(scores), dtype=torch.long))
    assert got.tolist() == pytest.approx([mapped(score) for score in scores])


def test_memory_of_a_map_does_not_grow_with_its_knots():
    calibration = ScoreCalibration(80, 500)
    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            largest.extend(tensor.numel() for tensor in (out if isinstance(out, tuple) else (out,)))
            return out

    with Sizes():
        calibration(torch.rand(100_000), torch.randint(0, 80, (100_000,)))
    assert max(largest) == 100_000


def test_a_new_map_is_the_identity_and_maps_are_per_class():
    calibration = ScoreCalibration(2, 5)
    scores = torch.rand(100)
    labels = torch.randint(0, 2, (100,))
    torch.testing.assert_close(calibration(scores, labels), scores.double())
    calibration.values[1] = 0.5 * calibration.knots[1]
    mapped = calibration(scores, labels)
    torch.testing.assert_close(mapped[labels == 0], scores[labels == 0].double())
    torch.testing.assert_close(mapped[labels == 1], (0.5 * 0.999 + 0.001) * scores[labels == 1].double())
    with pytest.raises(ValueError, match='num_knots'):
        ScoreCalibration(2, 1)


def drawn(precision, n=4000, seed=0, low=0.0):
    """Detections whose precision is a known function of their score."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(low, 1, n)
    correct = rng.random(n) < precision(scores)
    return ClassMatches(scores, correct, np.where(correct, 0.8, 0.0), rng.integers(0, 100, n), int(correct.sum()))


@pytest.mark.parametrize('method', ['isotonic', 'platt'])
def test_fitted_maps_recover_the_precision(method):
    def first(s):
        logit = np.log(s / (1 - s))
        return 1 / (1 + np.exp(-(2 * logit - 3)))

    def second(s):
        return 1 / (1 + np.exp(-(np.log(s / (1 - s)) + 1)))

    matches = [drawn(first), drawn(second, seed=1)]
    calibration, own = fit_calibration(matches, method)
    assert own == [True, True]
    grid = np.linspace(0.05, 0.95, 19)
    for label, precision in enumerate((first, second)):
        mapped = calibration(torch.from_numpy(grid), torch.full((19,), label)).numpy()
        assert np.abs(mapped - precision(grid)).max() < (0.12 if method == 'isotonic' else 0.03)
    unseen = cross_validated(matches, method)
    assert sorted(len(m.scores) for m in unseen) == [4000, 4000]
    assert calibration_errors(unseen).d_ece < 0.03 < 0.06 < calibration_errors(matches).d_ece


def test_rare_classes_take_the_common_map():
    common, rare = drawn(lambda s: s**2), drawn(lambda s: s**2, n=60, seed=3)
    calibration, own = fit_calibration([common, rare], min_matches=50)
    assert own == [True, False]
    columns = [np.concatenate(column) for column in list(zip(common, rare, strict=True))[:4]]
    pooled = fit_calibration([ClassMatches(*columns, 0)])[0]
    x = torch.linspace(0, 1, 50)
    got, want = calibration(x, torch.ones(50, dtype=torch.long)), pooled(x, torch.zeros(50, dtype=torch.long))
    torch.testing.assert_close(got, want)


def test_a_class_whose_precision_falls_takes_the_common_map():
    """The others keep theirs; also in every fold of the cross-validation."""
    rising, falling = drawn(lambda s: s**2), drawn(lambda s: 1 - s, n=500, seed=3)
    calibration, own = fit_calibration([rising, falling], 'platt')
    assert own == [True, False]
    alone, _ = fit_calibration([rising], 'platt')
    x = torch.linspace(0.05, 0.95, 19)
    first, second = (calibration(x, torch.full((19,), label)) for label in (0, 1))
    torch.testing.assert_close(first, alone(x, torch.zeros(19, dtype=torch.long)))
    both = [np.concatenate(column) for column in list(zip(rising, falling, strict=True))[:4]]
    pooled, _ = fit_calibration([ClassMatches(*both, 0)], 'platt')
    torch.testing.assert_close(second, pooled(x, torch.zeros(19, dtype=torch.long)))
    assert [len(m.scores) for m in cross_validated([rising, falling], 'platt')] == [4000, 500]
    same = rising._replace(scores=np.full(4000, 0.5))  # no slope at all
    assert fit_calibration([rising, same], 'platt')[1] == [True, False]


def test_calibration_errors_equal_the_definitions():
    a, b = drawn(lambda s: s, n=300), drawn(lambda s: 0.5 * s, n=200, seed=1)
    bins = 10

    def slow(scores, quality):
        total = 0.0
        for j in range(bins):
            inside = [i for i, s in enumerate(scores) if j / bins <= s < (j + 1) / bins]
            if inside:
                confidence = sum(scores[i] for i in inside) / len(inside)
                total += len(inside) / len(scores) * abs(confidence - sum(quality[i] for i in inside) / len(inside))
        return total

    def la_quality(m, j_of):
        """precision times mean IoU of the right detections of the same bin."""
        quality = []
        for j in j_of:
            inside = [i for i, other in enumerate(j_of) if other == j]
            right = [m.ious[i] for i in inside if m.correct[i]]
            quality.append(len(right) / len(inside) * (sum(right) / len(right) if right else 0.0))
        return quality

    errors = calibration_errors([a, b], bins)
    both = np.concatenate([a.scores, b.scores]), np.concatenate([a.correct, b.correct]).astype(float)
    assert errors.d_ece == pytest.approx(slow(*both))
    by_class = [slow(m.scores, la_quality(m, (m.scores * bins).astype(int).tolist())) for m in (a, b)]
    assert errors.la_ece == pytest.approx(sum(by_class) / 2)
    confidence, precision, count = reliability(np.array([0.05, 0.15, 1.0]), np.array([1, 0, 1]), bins)
    assert count.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert precision[[0, 1, 9]].tolist() == [1, 0, 1] and np.isnan(confidence[5])


def test_ap_stays(tmp_path):
    coco, detections = dataset(seed=4, images=60)
    matches = match_detections(coco, detections, CLASSES)
    calibration, _ = fit_calibration(matches, min_matches=10)
    labels = torch.tensor([d['label'] for d in detections])
    scores = calibration(torch.tensor([d['score'] for d in detections]).double(), labels)
    assert len(scores.unique()) == len(scores)
    mapped = [dict(d, score=s) for d, s in zip(detections, scores.tolist(), strict=True)]
    ap = average_precision(coco, detections, CLASSES)
    assert 0.01 < ap < 0.9
    assert average_precision(coco, mapped, CLASSES) == pytest.approx(ap, abs=1e-9)
    again = calibrated(matches, calibration)
    assert calibration_errors(again).d_ece < calibration_errors(matches).d_ece


def test_wrong_input_is_named(monkeypatch):
    good = drawn(lambda s: s)
    with pytest.raises(ValueError, match='isotonic, platt'):
        fit_calibration([good], 'histogram')
    with pytest.raises(ValueError, match='0 of 4000 detections are right'):
        fit_calibration([good._replace(correct=np.zeros(4000, dtype=bool))])
    with pytest.raises(ValueError, match='does not rise with the score'):
        fit_calibration([drawn(lambda s: 1 - s)], 'platt')
    for fit in (fit_calibration, cross_validated):
        with pytest.raises(ValueError, match='min_matches must be at least 1, got 0'):
            fit([good], min_matches=0)
        with pytest.raises(ValueError, match='isotonic, platt'):
            fit([good], 'histogram')
    with pytest.raises(ValueError, match='at least 5 images'):
        cross_validated([good._replace(images=np.zeros(4000, dtype=int))])
    monkeypatch.setitem(sys.modules, 'sklearn.isotonic', None)
    with pytest.raises(ImportError, match='pip install'):
        fit_calibration([good])


@pytest.mark.parametrize('right', [True, False])
def test_a_cross_validation_says_what_is_too_few(right):
    """All right, or all wrong, detections are on one image, so the checkpoint is not to blame."""
    images = np.repeat(np.arange(8), 5)
    correct = (images == 3) == right
    matches = [ClassMatches(np.linspace(0.9, 0.1, 40), correct, np.where(correct, 0.8, 0.0), images, 5)]
    fit_calibration(matches)
    counts = '5 right and 35 wrong' if right else '35 right and 5 wrong'
    with pytest.raises(ValueError, match=f'{counts} detections are too few for a cross-validation with 5 parts'):
        cross_validated(matches)


@pytest.mark.parametrize('method', ['isotonic', 'platt'])
def test_a_class_without_right_detections_takes_the_common_map(method):
    """Also with the lowest min_matches."""
    common, none = drawn(lambda s: s**2), drawn(lambda s: 0 * s, n=60, seed=3)
    assert fit_calibration([common, none], method, min_matches=1)[1] == [True, False]


def test_a_calibrated_detector_can_be_pickled_and_copied():
    import copy
    import pickle

    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    folder = Path(__file__).resolve().parents[3] / 'configs/shapes'
    config = Config.fromfile(folder / 'atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py').model
    config.update(detector=config.type, type='CalibratedDetector', calibration=dict(num_classes=4, num_knots=3))
    detector = MODELS.build(config)
    detector.calibration.values[2] = 0.25
    for again in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert type(again) is type(detector) and again.score_thr == detector.score_thr
        assert again.calibration.values[2].eq(0.25).all()
        assert again.calibration.values.data_ptr() != detector.calibration.values.data_ptr()
        for (name, value), (other, expected) in zip(
            again.state_dict().items(), detector.state_dict().items(), strict=True
        ):
            assert name == other and torch.equal(value, expected)


def test_score_threshold_is_taken_over():
    one = dict(score_thr=0.05, nms_pre=1000)
    assert take_score_threshold(one, two_stage=False) == 0.05 and one['score_thr'] == 0.0
    two = dict(rpn=dict(nms_pre=1000), rcnn=dict(score_thr=0.4))
    assert take_score_threshold(two, two_stage=True) == 0.4 and two['rcnn']['score_thr'] == 0.0
    assert take_score_threshold(dict(max_per_img=100), two_stage=False) == 0.0
    assert take_score_threshold(None, two_stage=False) == 0.0


@pytest.mark.parametrize(('head', 'part'), [('query', None), ('roi0', 'rcnn'), ('atss1', 'dense')])
def test_the_threshold_is_that_of_the_head_that_detects(head, part, tmp_path):
    """Co-DETR's and Co-DINO's auxiliary heads can detect, too."""
    test_cfg = dict(
        head=head, max_per_img=100, rcnn=[dict(score_thr=0.3), dict(score_thr=0.2)], dense=dict(score_thr=0.6)
    )
    assert take_score_threshold(test_cfg, two_stage=False) == {None: 0.0, 'rcnn': 0.3, 'dense': 0.6}[part]
    assert [one['score_thr'] for one in test_cfg['rcnn']] == ([0, 0] if part == 'rcnn' else [0.3, 0.2])
    assert test_cfg['dense']['score_thr'] == (0 if part == 'dense' else 0.6)
    (tmp_path / 'mine.py').write_text(f"model = dict(type='CoDETR', test_cfg=dict(head={head!r}))\n")
    write_config(
        str(tmp_path / 'mine.py'), Config.fromfile(tmp_path / 'mine.py'), ScoreCalibration(2, 5), tmp_path / 'out.py'
    )
    written = Config.fromfile(tmp_path / 'out.py').model.test_cfg
    assert (written[part] if part else written)['score_thr'] == 0


def test_the_written_config_imports_the_modules_of_the_detector_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'my_heads.py').write_text('')
    (tmp_path / 'mine.py').write_text("custom_imports = dict(imports='my_heads')\nmodel = dict(type='ATSS')\n")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    write_config(str(tmp_path / 'mine.py'), cfg, ScoreCalibration(2, 5), tmp_path / 'out.py')
    written = Config.fromfile(tmp_path / 'out.py')
    assert written.custom_imports.imports == ['my_heads', 'bucketed_losses.mmdet']
    assert (written.model.type, written.model.detector) == ('mmdet.CalibratedDetector', 'ATSS')
