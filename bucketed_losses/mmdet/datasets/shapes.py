"""Draws a small detection data set: shapes with clutter, occlusion, class imbalance and masks, in COCO format."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from ...new_files import new_folder
from ...terminal import progress_bar

CLASSES = ('disc', 'square', 'triangle', 'star')
CLASS_FREQUENCIES = (0.55, 0.27, 0.13, 0.05)
RAREST = CLASSES.index('star')

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ShapesSpec:
    """The parameters of the data set; the same values give the same images and annotations.

    Attributes:
        num_train: Number of training images.
        num_val: Number of validation images.
        size: Width and height of an image in pixels.
        max_objects: The number of objects per image is uniform in [1, max_objects].
        seed: An integer of at least 0.
        rare_share: The share of the stars, the rarest class, that is drawn in the training images, in [0, 1].
            Everything else is drawn as with 1, so a star that is left out covers nothing. The stars of a smaller share
            are among those of a larger share. The validation images always have all stars.
    """

    num_train: int = 320
    num_val: int = 80
    size: int = 192
    max_objects: int = 8
    seed: int = 0
    rare_share: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (('num_train', 1), ('num_val', 1), ('size', 32), ('max_objects', 1), ('seed', 0)):
            if getattr(self, name) < least:
                raise ValueError(f'{name} must be at least {least}, got {getattr(self, name)}')
        if not 0 <= self.rare_share <= 1:
            raise ValueError(f'rare_share must lie in [0, 1], got {self.rare_share}')


def make_shapes(root: str | Path, spec: ShapesSpec | None = None) -> Path:
    """Write the set to ``root``: ``train/``, ``val/`` and ``annotations/{train,val}.json`` with RLE masks.

    If ``root`` already holds a set of the same spec, that set is kept. A set is written completely or not at all.

    Raises:
        FileExistsError: ``root`` holds something else, for example a set of another spec. Nothing is deleted.
        UserError: ``root`` cannot be written.
    """
    root, spec = Path(root), spec or ShapesSpec()
    if root.is_file():
        raise FileExistsError(f'root {root} is a file, not a folder')
    if root.exists() and any(root.iterdir()):
        if not is_shapes(root):
            raise FileExistsError(f'root {root} is not empty and is not a set of shapes; give another folder')
        if (there := _spec_of(root)) != spec:
            raise FileExistsError(
                f'root {root} contains shapes of another spec, {there}, not {spec}; delete it or give another folder'
            )
        return root
    with new_folder(root) as made:
        (made / 'annotations').mkdir()
        for index, (split, num) in enumerate((('train', spec.num_train), ('val', spec.num_val))):
            _write_split(made, split, index, num, spec)
    return root


def is_shapes(root: str | Path) -> bool:
    """Whether a folder holds a finished set."""
    root = Path(root)
    return all((root / 'annotations' / f'{split}.json').is_file() for split in ('train', 'val'))


def _spec_of(root: Path) -> ShapesSpec | None:
    file = root / 'annotations' / 'val.json'
    try:
        stored = json.loads(file.read_text()).get('info', {}).get('spec')
    except (ValueError, AttributeError) as error:
        raise FileExistsError(f'{file} is damaged: {error}; delete {root} or give another folder') from error
    return None if stored is None else ShapesSpec(**stored)


def _write_split(root: Path, split: str, split_index: int, num: int, spec: ShapesSpec) -> None:
    (root / split).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in progress_bar(range(num), f'drawing {split} images'):
        rng = np.random.default_rng([spec.seed, split_index, image_id])
        image, objects = draw_image(rng, spec if split == 'train' else replace(spec, rare_share=1.0))
        name = f'{image_id:05d}.jpg'
        if not cv2.imwrite(str(root / split / name), image, [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise OSError(f'could not write {root / split / name}')
        images.append({'id': image_id, 'file_name': name, 'width': spec.size, 'height': spec.size})
        for label, mask in objects:
            rle = mask_utils.encode(np.asfortranarray(mask))
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': label + 1,
                    'bbox': [float(value) for value in mask_utils.toBbox(rle)],
                    'area': float(mask_utils.area(rle)),
                    'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode()},
                    'iscrowd': 0,
                }
            )
    content = {
        'info': {'description': 'Drawn shapes, made by bucketed-losses shapes', 'spec': asdict(spec)},
        'images': images,
        'annotations': annotations,
        'categories': [{'id': index + 1, 'name': name} for index, name in enumerate(CLASSES)],
    }
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))


def draw_image(rng: np.random.Generator, spec: ShapesSpec) -> tuple[Image, list[tuple[int, Image]]]:
    """One image ``(size, size, 3)`` BGR and its objects: class index and visible mask ``(size, size)`` of 0 and 1."""
    size = spec.size
    kept = rng.spawn(1)[0]  # does not change what else is drawn
    image = _background(rng, size)
    _clutter(rng, image)
    labels, masks = [], []
    for _ in range(int(rng.integers(1, spec.max_objects + 1))):
        label = int(rng.choice(len(CLASSES), p=CLASS_FREQUENCIES))
        mask = np.zeros((size, size), np.uint8)
        cv2.fillPoly(mask, [_outline(rng, label, size)], 1)
        if not mask.any():
            continue
        colour = rng.integers(0, 256, 3)
        pixels = np.clip(colour + rng.normal(0, 8, (int(mask.sum()), 3)), 0, 255)
        if label == RAREST and kept.random() >= spec.rare_share:
            continue
        image[mask > 0] = pixels
        labels.append(label)
        masks.append(mask)
    image = cv2.GaussianBlur(image, (3, 3), 0)

    objects = []
    covered = np.zeros((size, size), np.uint8)
    for label, mask in zip(reversed(labels), reversed(masks), strict=True):  # the last one drawn is on top
        visible = mask & (1 - covered)
        covered |= mask
        if visible.sum() >= max(24, 0.3 * mask.sum()):
            objects.append((label, visible))
    return image, objects[::-1]


def _background(rng: np.random.Generator, size: int) -> Image:
    coarse = rng.integers(40, 216, (4, 4, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def _clutter(rng: np.random.Generator, image: Image) -> None:
    """Draw lines and open arcs, which are not objects."""
    size = len(image)
    for _ in range(int(rng.integers(4, 12))):
        colour = rng.integers(0, 256, 3).tolist()
        start, end = rng.integers(0, size, (2, 2)).tolist()
        if rng.random() < 0.5:
            cv2.line(image, start, end, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        else:
            axes = rng.integers(size // 24, size // 6, 2).tolist()
            turn, length = rng.uniform(0, 360), rng.uniform(60, 220)
            cv2.ellipse(image, start, axes, turn, 0, length, colour, int(rng.integers(1, 4)), cv2.LINE_AA)


def _outline(rng: np.random.Generator, label: int, size: int) -> NDArray[np.int32]:
    """Corners ``(n, 2)`` in pixels of a shape of a class, with random position, size and rotation."""
    radius = size * np.exp(rng.uniform(np.log(0.05), np.log(0.20)))
    centre = rng.uniform(radius * 0.5, size - radius * 0.5, 2)
    corners = {'disc': 48, 'square': 4, 'triangle': 3, 'star': 10}[CLASSES[label]]
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    radii = np.full(corners, radius)
    if CLASSES[label] == 'star':
        radii[1::2] *= 0.45
    points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.round(points).astype(np.int32)
