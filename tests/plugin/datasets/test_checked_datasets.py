"""Damaged data: boxes, annotation files and images that cannot be used are named or counted."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

pytest.importorskip('mmdet')

from mmdet.registry import DATASETS
from mmengine.fileio import LocalBackend, register_backend

from bucketed_losses.mmdet.datasets.checked_coco import box_problem


def coco(folder, boxes, **changes):
    annotations = [
        dict(id=10 + i, image_id=1, category_id=1, bbox=box, area=25.0, iscrowd=0) for i, box in enumerate(boxes)
    ]
    images = [dict(id=1, file_name='1.png', width=40, height=30)]
    content = {'images': images, 'annotations': annotations, 'categories': [dict(id=1, name='disc')], **changes}
    path = folder / 'annotations.json'
    path.write_text(json.dumps(content))
    return path


def dataset(path, name='CheckedCocoDataset', **kwargs):
    common = dict(metainfo=dict(classes=('disc',)), pipeline=[], data_prefix=dict(img=f'{path.parent}/'))
    return DATASETS.build({**common, 'type': name, 'ann_file': str(path), **kwargs})


GOOD = [5, 5, 10, 10]


def test_boxes_that_train_nothing_are_counted(tmp_path, logged):
    nan, inf = float('nan'), float('inf')
    boxes = [
        GOOD,
        [nan, 1, 2, 3],
        [1, 2, inf, 3],
        [3, 3, 0, 5],
        [3, 3, 5, -5],
        [50, 3, 5, 5],
        [1, 2, 3],
        [-5, -5, 20, 20],
    ]
    data = dataset(coco(tmp_path, boxes))
    assert [instance['bbox'] for instance in data.get_data_info(0)['instances']] == [[5, 5, 15, 15], [-5, -5, 15, 15]]
    warning = logged.pop()
    assert f'CheckedCocoDataset: {tmp_path}/annotations.json: boxes that are not used:' in warning
    for text in ('2 not finite (annotation ids 11, 12)', '2 of zero or negative size (annotation ids 13, 14)'):
        assert text in warning
    assert '1 outside the image (annotation ids 15)' in warning and '1 not four numbers (annotation ids 16)' in warning
    dataset(coco(tmp_path, [GOOD]))
    assert not logged
    dataset(coco(tmp_path, [[3, 3, 0, 0]] * 9 + [GOOD]))
    assert '9 of zero or negative size (annotation ids 10, 11, 12, 13, 14, …)' in logged[0]


@pytest.mark.parametrize(
    'box, problem',
    [
        (GOOD, None),
        ([39.5, 0, 1, 1], None),
        ([0, 0, 40, 30], None),
        ([39.5, 29.5, 5, 5], None),
        ([40, 0, 5, 5], 'outside the image'),
        ([-5, 0, 5, 5], 'outside the image'),
        ([0, 0, 1e-3, 5], 'smaller than a pixel'),
        ([0, 0, 5, 0.99], 'smaller than a pixel'),
        (None, 'not four numbers'),
        (['a', 0, 1, 1], 'not four numbers'),
    ],
)
def test_box_problem(box, problem):
    assert box_problem(box, 40, 30, area=25.0) == problem


@pytest.mark.parametrize('area', [0, 0.0, -25.0])
def test_a_box_without_area(area):
    """MMDetection leaves it out, whatever its width and height."""
    assert box_problem(GOOD, 40, 30, area) == 'of zero or negative area'


def test_what_mmdetection_leaves_out_is_counted(tmp_path, logged):
    """The boxes that are left over are those of ``CocoDataset``."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform([-12, -12, 0, 0], [50, 40, 3, 3], (60, 4)).round(1).tolist()
    path = coco(tmp_path, boxes)
    content = json.loads(path.read_text())
    for annotation in content['annotations'][::7]:
        annotation['area'] = 0
    path.write_text(json.dumps(content))
    kept, (warning,) = dataset(path).get_data_info(0)['instances'], logged
    stock = dataset(path, 'CocoDataset').get_data_info(0)['instances']
    assert 0 < len(kept) < 60 and [box['bbox'] for box in kept] == [box['bbox'] for box in stock]
    counts = {kind: int(count) for count, kind in re.findall(r'(\d+) ([a-z ]+) \(annotation ids', warning)}
    kinds = {'of zero or negative size', 'outside the image', 'smaller than a pixel', 'of zero or negative area'}
    assert {'smaller than a pixel', 'of zero or negative area'} <= set(counts) <= kinds
    assert sum(counts.values()) == 60 - len(kept)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'{"images": [', 'annotations.json is not valid JSON: .*line 1'),
        (b'\xff\xfe\x00', 'is not valid JSON'),
        (b'{"images": []}', 'is not in COCO format'),
        (b'[1, 2]', 'is not in COCO format'),
    ],
)
def test_damaged_annotation_files_are_named(content, message, tmp_path):
    path = tmp_path / 'annotations.json'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        dataset(path)


def test_missing_files_and_fields_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'CheckedCocoDataset: annotation file .*nowhere.json does not exist'):
        dataset(tmp_path / 'nowhere.json')
    with pytest.raises(FileNotFoundError, match=f'annotation file {tmp_path} does not exist'):
        dataset(tmp_path)
    path = coco(tmp_path, [], annotations=[dict(id=7, image_id=1, category_id=1, bbox=GOOD)])
    with pytest.raises(ValueError, match='annotation 7 has no area'):
        dataset(path)


class MappedBackend(LocalBackend):
    """A storage backend that finds the files of one folder in another, as MMEngine's backends for clusters do."""

    def __init__(self, path_mapping):
        self.path_mapping = path_mapping

    def _mapped(self, path):
        for here, there in self.path_mapping.items():
            path = str(path).replace(here, there)
        return path

    def get_local_path(self, filepath):
        return super().get_local_path(self._mapped(filepath))

    def get_text(self, filepath, encoding='utf-8'):
        return super().get_text(self._mapped(filepath), encoding)


register_backend('MappedBackend', MappedBackend)


def test_a_storage_backend_finds_the_file(tmp_path):
    path = coco(tmp_path, [GOOD])
    backend = dict(backend='MappedBackend', path_mapping={'data/far/': f'{tmp_path}/'})
    data = dataset(path, ann_file='data/far/annotations.json', backend_args=backend)
    assert len(data.get_data_info(0)['instances']) == 1
    for args in (backend, dict(backend='local')):
        with pytest.raises(FileNotFoundError, match=r'annotation file .*/data/far/nowhere.json does not exist'):
            dataset(path, ann_file='data/far/nowhere.json', backend_args=args)


@pytest.mark.parametrize('content', [None, b'', b'no image', 'truncated'])
def test_unreadable_images_are_named(content, tmp_path):
    import cv2

    image = tmp_path / '1.png'
    if content == 'truncated':
        cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
        image.write_bytes(image.read_bytes()[:60])
    elif content is not None:
        image.write_bytes(content)
    data = dataset(coco(tmp_path, [GOOD]), pipeline=[dict(type='LoadImageFromFile')])
    with pytest.raises(RuntimeError, match=rf'CheckedCocoDataset: image {image} cannot be used: .'):
        data[0]


def test_the_checked_datasets_of_the_published_configs(tmp_path):
    path = coco(tmp_path, [GOOD, [3, 3, 0, 5]])
    assert len(dataset(path, 'CheckedCityscapesDataset').get_data_info(0)['instances']) == 1
    pytest.importorskip('lvis')
    images = [dict(id=1, coco_url='http://images.cocodataset.org/1.png', width=40, height=30)]
    lvis = json.loads(path.read_text())
    lvis['images'] = [dict(image, neg_category_ids=[], not_exhaustive_category_ids=[]) for image in images]
    path.write_text(json.dumps(lvis))
    assert len(dataset(path, 'CheckedLVISV1Dataset').get_data_info(0)['instances']) == 1
