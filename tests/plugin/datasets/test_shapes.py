"""The generator of the embedded data set."""

from __future__ import annotations

import json

import pytest

pytest.importorskip('mmdet')

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from bucketed_losses.mmdet.datasets.shapes import CLASSES, ShapesSpec, make_shapes

pytestmark = pytest.mark.stack

SPEC = ShapesSpec(num_train=40, num_val=3, size=128, seed=5)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp('shapes') / 'set', SPEC)


def test_same_spec_same_files(root, tmp_path):
    again = make_shapes(tmp_path / 'set', SPEC)
    files = sorted(path.relative_to(root) for path in root.rglob('*') if path.is_file())
    assert len(files) == 40 + 3 + 2
    for file in files:
        assert (root / file).read_bytes() == (again / file).read_bytes()
    other = make_shapes(tmp_path / 'other', ShapesSpec(num_train=1, num_val=1, size=128, seed=6))
    assert (other / 'train/00000.jpg').read_bytes() != (root / 'train/00000.jpg').read_bytes()


def test_annotations_are_valid_coco(root):
    coco = COCO(str(root / 'annotations/train.json'))
    counts = np.zeros(len(CLASSES), int)
    per_image = []
    for image_id in coco.getImgIds():
        annotations = coco.imgToAnns[image_id]
        per_image.append(len(annotations))
        union = np.zeros((128, 128), int)
        for annotation in annotations:
            mask = coco.annToMask(annotation)
            x, y, w, h = annotation['bbox']
            assert mask.sum() == annotation['area'] > 0
            assert [x, y, w, h] == mask_utils.toBbox(annotation['segmentation']).tolist()
            assert x >= 0 and y >= 0 and x + w <= 128 and y + h <= 128
            union += mask
            counts[annotation['category_id'] - 1] += 1
        assert union.max() <= 1, 'visible masks do not overlap'
    assert max(per_image) > 3
    assert counts[0] > counts[1] > counts[2] > counts[3] > 0, 'classes are imbalanced'


def stars_of(root, split):
    """Boxes of the stars of a split, each with its image, and all other objects."""
    content = json.loads((root / f'annotations/{split}.json').read_text())
    stars, others = set(), []
    for annotation in content['annotations']:
        where = (annotation['image_id'], *annotation['bbox'])
        if CLASSES[annotation['category_id'] - 1] == 'star':
            stars.add(where)
        else:
            others.append((*where, annotation['category_id']))
    return stars, others


def test_a_smaller_share_of_the_rarest_class(tmp_path):
    roots = {
        share: make_shapes(tmp_path / str(share), ShapesSpec(num_train=150, num_val=20, size=64, rare_share=share))
        for share in (1.0, 0.5, 0.25, 0.0)
    }
    stars = {share: stars_of(root, 'train')[0] for share, root in roots.items()}
    assert stars[1.0] > stars[0.5] > stars[0.25] > stars[0.0] == set()
    assert 0.3 < len(stars[0.5]) / len(stars[1.0]) < 0.7 and 0.1 < len(stars[0.25]) / len(stars[1.0]) < 0.4
    full, half = (json.loads((roots[share] / 'annotations/train.json').read_text()) for share in (1.0, 0.5))
    without = {image['id'] for image in full['images']} - {star[0] for star in stars[1.0]}
    for image in sorted(without)[:20]:  # nothing was left out there, visible or hidden
        name = f'train/{image:05d}.jpg'
        if (roots[0.0] / name).read_bytes() == (roots[1.0] / name).read_bytes():
            break
    else:
        pytest.fail('all images differ')
    assert len(half['images']) == len(full['images'])
    # Objects that a star had covered come back; none are lost.
    assert len(stars_of(roots[0.0], 'train')[1]) >= len(stars_of(roots[1.0], 'train')[1])
    for file in [*(roots[1.0] / 'val').iterdir()]:
        assert file.read_bytes() == (roots[0.25] / 'val' / file.name).read_bytes()
    assert stars_of(roots[1.0], 'val') == stars_of(roots[0.25], 'val')


def test_a_set_of_an_earlier_version_is_kept(tmp_path):
    spec = ShapesSpec(num_train=1, num_val=1, size=64)
    root = make_shapes(tmp_path / 'set', spec)
    file = root / 'annotations/val.json'
    content = json.loads(file.read_text())
    del content['info']['spec']['rare_share']
    file.write_text(json.dumps(content))
    assert make_shapes(root, spec) == root


def test_a_finished_set_is_kept_and_never_deleted(tmp_path):
    spec = ShapesSpec(num_train=2, num_val=1, size=64)
    root = make_shapes(tmp_path / 'set', spec)
    before = (root / 'train/00000.jpg').stat().st_mtime_ns
    make_shapes(root, spec)
    assert (root / 'train/00000.jpg').stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r'another spec, .*num_train=2.* not .*num_train=3'):
        make_shapes(root, ShapesSpec(num_train=3, num_val=1, size=64))
    assert len(json.loads((root / 'annotations/train.json').read_text())['images']) == 2


def test_an_interrupted_set_does_not_appear(tmp_path, monkeypatch):
    from bucketed_losses.mmdet.datasets import shapes

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, 'draw_image', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / 'set', SPEC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('name', 'value'), [('num_val', 0), ('size', 31), ('seed', -1), ('max_objects', 0)])
def test_bad_specs_are_named(name, value):
    with pytest.raises(ValueError, match=f'{name} must be at least .*got {value}'):
        ShapesSpec(**{name: value})


@pytest.mark.parametrize('share', [-0.1, 1.5])
def test_a_share_outside_of_0_and_1_is_refused(share):
    with pytest.raises(ValueError, match=rf'rare_share must lie in \[0, 1\], got {share}'):
        ShapesSpec(rare_share=share)
