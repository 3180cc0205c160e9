"""Writes drawn shapes in the layouts of COCO 2017, LVIS v1 and Cityscapes, to try their configs without their data."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmdet.datasets import CityscapesDataset, CocoDataset, LVISV1Dataset
from pycocotools import mask as mask_utils

from ...new_files import new_folder

SPLITS = ('train', 'val')
# The names of the classes of shapes in the other data sets.
LVIS_NAMES = {
    'disc': 'plate',
    'square': 'box',
    'triangle': 'triangle_(musical_instrument)',
    'star': 'starfish',
}
COCO_NAMES = {'disc': 'frisbee', 'square': 'tv', 'triangle': 'pizza', 'star': 'teddy bear'}
CITYSCAPES_NAMES = {'disc': 'car', 'square': 'truck', 'triangle': 'person', 'star': 'bicycle'}
# The ids that Cityscapes gives its classes with instances; 7 is road.
CITYSCAPES_IDS = dict(person=24, rider=25, car=26, truck=27, bus=28, train=31, motorcycle=32, bicycle=33)
CITYSCAPES_ROAD = 7
CITY = 'shapes'


def shapes_to_coco(shapes: str | Path, root: str | Path) -> Path:
    """Write a set of shapes as COCO 2017: all of its 80 categories, masks, images in ``{train,val}2017/``.

    Args:
        shapes: Folder of a set made by ``make_shapes``.
        root: New folder to write to.

    Raises:
        FileExistsError: ``root`` exists.
    """
    return _write(Path(shapes), Path(root), _coco_split)


def shapes_to_lvis(shapes: str | Path, root: str | Path) -> Path:
    """Write a set of shapes as LVIS v1: all of its 1203 categories, polygons, images in ``{train,val}2017/``.

    Args:
        shapes: Folder of a set made by ``make_shapes``.
        root: New folder to write to.

    Raises:
        FileExistsError: ``root`` exists.
    """
    return _write(Path(shapes), Path(root), _lvis_split)


def shapes_to_cityscapes(shapes: str | Path, root: str | Path) -> Path:
    """Write a set of shapes as Cityscapes: ``leftImg8bit/``, ``gtFine/`` and MMDetection's JSON in ``annotations/``.

    Args:
        shapes: Folder of a set made by ``make_shapes``.
        root: New folder to write to.

    Raises:
        FileExistsError: ``root`` exists.
    """
    return _write(Path(shapes), Path(root), _cityscapes_split)


def _write(shapes: Path, root: Path, write_split: Callable[[Path, Path, str, dict], None]) -> Path:
    if root.exists():
        raise FileExistsError(f'root {root} exists already; name a new folder')
    with new_folder(root) as made:
        (made / 'annotations').mkdir()
        for split in SPLITS:
            content = json.loads((shapes / 'annotations' / f'{split}.json').read_text())
            write_split(shapes, made, split, content)
    return root


def _coco_split(shapes: Path, root: Path, split: str, content: dict) -> None:
    shutil.copytree(shapes / split, root / f'{split}2017')
    ids = {name: index + 1 for index, name in enumerate(CocoDataset.METAINFO['classes'])}
    new_ids = {category['id']: ids[COCO_NAMES[category['name']]] for category in content['categories']}
    annotations = [{**each, 'category_id': new_ids[each['category_id']]} for each in content['annotations']]
    categories = [{'id': index, 'name': name} for name, index in ids.items()]
    result = {**content, 'annotations': annotations, 'categories': categories}
    (root / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(result))


def _lvis_split(shapes: Path, root: Path, split: str, content: dict) -> None:
    shutil.copytree(shapes / split, root / f'{split}2017')
    names = {category['id']: LVIS_NAMES[category['name']] for category in content['categories']}
    ids = {name: index + 1 for index, name in enumerate(LVISV1Dataset.METAINFO['classes'])}
    images = {
        image['id']: {
            **{key: image[key] for key in ('id', 'width', 'height')},
            'coco_url': f'http://images.cocodataset.org/{split}2017/{image["file_name"]}',
            'neg_category_ids': [],
            'not_exhaustive_category_ids': [],
        }
        for image in content['images']
    }
    annotations = []
    for annotation in content['annotations']:
        polygons = _polygons(annotation['segmentation'])
        if polygons:
            kept = {key: annotation[key] for key in ('id', 'image_id', 'bbox', 'area')}
            category = ids[names[annotation['category_id']]]
            annotations.append({**kept, 'category_id': category, 'segmentation': polygons})
    instances = Counter(annotation['category_id'] for annotation in annotations)
    image_counts = Counter(c for c, _ in {(a['category_id'], a['image_id']) for a in annotations})
    # For each image, LVIS lists some categories that are verified to be absent. Here these are all categories that
    # occur in another image.
    for image in images.values():
        present = {a['category_id'] for a in annotations if a['image_id'] == image['id']}
        image['neg_category_ids'] = sorted(set(instances) - present)
    categories = [
        {
            'id': index,
            'name': name,
            'frequency': 'r' if image_counts[index] <= 10 else 'c' if image_counts[index] <= 100 else 'f',
            'image_count': image_counts[index],
            'instance_count': instances[index],
        }
        for name, index in ids.items()
    ]
    result = {'info': {}, 'images': list(images.values()), 'annotations': annotations, 'categories': categories}
    (root / 'annotations' / f'lvis_v1_{split}.json').write_text(json.dumps(result))


def _polygons(rle: dict) -> list[list[float]]:
    """Outlines of a mask as COCO polygons ``[x1, y1, x2, y2, ...]`` with at least three corners."""
    contours, _ = cv2.findContours(_mask(rle), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour.reshape(-1).astype(float).tolist() for contour in contours if len(contour) >= 3]


def _cityscapes_split(shapes: Path, root: Path, split: str, content: dict) -> None:
    images_folder, truth_folder = (root / kind / split / CITY for kind in ('leftImg8bit', 'gtFine'))
    images_folder.mkdir(parents=True)
    truth_folder.mkdir(parents=True)
    names = {category['id']: CITYSCAPES_NAMES[category['name']] for category in content['categories']}
    by_image: dict[int, list[dict]] = {}
    for annotation in content['annotations']:
        by_image.setdefault(annotation['image_id'], []).append(annotation)
    images, annotations = [], []
    for image in content['images']:
        stem = f'{CITY}_{image["id"]:06d}_000019'
        pixels = mmcv.imread(shapes / split / image['file_name'])
        _save(images_folder / f'{stem}_leftImg8bit.png', pixels)
        instance_ids = np.full(pixels.shape[:2], CITYSCAPES_ROAD, np.uint16)
        for number, annotation in enumerate(by_image.get(image['id'], [])):
            label = CITYSCAPES_IDS[names[annotation['category_id']]]
            instance_ids[_mask(annotation['segmentation']) > 0] = 1000 * label + number
            annotations.append({**annotation, 'category_id': label})
        _save(truth_folder / f'{stem}_gtFine_instanceIds.png', instance_ids)
        images.append({**image, 'file_name': f'{CITY}/{stem}_leftImg8bit.png'})
    categories = [{'id': CITYSCAPES_IDS[name], 'name': name} for name in CityscapesDataset.METAINFO['classes']]
    result = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'annotations' / f'instancesonly_filtered_gtFine_{split}.json').write_text(json.dumps(result))


def _mask(rle: dict) -> np.ndarray:
    return mask_utils.decode({'size': rle['size'], 'counts': rle['counts'].encode()})


def _save(path: Path, pixels: np.ndarray) -> None:
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f'could not write {path}')
