"""Converts checkouts of two public data sets to the files that ``configs/bccd`` and ``configs/cards`` read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2

from ...errors import UserError
from ...new_files import new_folder
from .small_coco import BCCD_CLASSES, CARDS_CLASSES
from .voc_to_coco import VocImage, read_voc, to_coco

BCCD_COUNTS = {'train': 205, 'val': 87, 'test': 72}
CARDS_COUNTS = {'train': 296, 'val': 67}
LONGER_SIDE = 640  # of a photograph of cards, in pixels, after the conversion
JPEG_QUALITY = 88


def convert_bccd(source: Path, out: Path, counts: Mapping[str, int] | None = BCCD_COUNTS) -> dict[str, tuple[int, int]]:
    """Convert a checkout of BCCD_Dataset: ``train.json``, ``val.json``, ``test.json`` and ``images/``.

    Args:
        source: The checkout, or its folder ``BCCD`` with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.
        out: New folder to write to.
        counts: The number of images that each split must have; None for any.

    Returns:
        The number of images and of boxes of each split.

    Raises:
        UserError: ``out`` exists, a file is missing or damaged, or a split has another number of images.
    """
    root = source / 'BCCD' if (source / 'BCCD').is_dir() else source

    def splits() -> dict[str, list[VocImage]]:
        return {
            split: [read_voc(root / f'Annotations/{name}.xml') for name in _names(root, split)] for split in BCCD_COUNTS
        }

    def copy(image: VocImage, split: str, target: Path) -> VocImage:
        _must_exist(root / 'JPEGImages' / image.file_name)
        shutil.copyfile(root / 'JPEGImages' / image.file_name, target / image.file_name)
        return image

    return _convert(out, splits, copy, BCCD_CLASSES, counts, first_image_id=0)


def convert_cards(
    source: Path, out: Path, counts: Mapping[str, int] | None = CARDS_COUNTS
) -> dict[str, tuple[int, int]]:
    """Convert a checkout of the playing cards: ``train.json``, ``val.json`` and ``images/``.

    Photographs are reduced to at most 640 pixels on the longer side, and their boxes with them.

    Args:
        source: The checkout, or its folder ``images`` with ``train`` and ``test``.
        out: New folder to write to.
        counts: The number of images that each split must have; None for any.

    Returns:
        The number of images and of boxes of each split.

    Raises:
        UserError: ``out`` exists, a file is missing or damaged, or a split has another number of images.
    """
    root = source / 'images' if (source / 'images').is_dir() else source
    folders = {'train': root / 'train', 'val': root / 'test'}

    def splits() -> dict[str, list[VocImage]]:
        return {split: [read_voc(file) for file in sorted(folder.glob('*.xml'))] for split, folder in folders.items()}

    def reduce(image: VocImage, split: str, target: Path) -> VocImage:
        file = folders[split] / image.file_name
        _must_exist(file)
        pixels = cv2.imread(str(file))
        if pixels is None:
            raise UserError(f'{file} cannot be read as an image')
        scale = min(1.0, LONGER_SIDE / max(image.width, image.height))
        size = (round(image.width * scale), round(image.height * scale))
        name = f'{split}_{file.stem}.jpg'
        reduced = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        if not cv2.imwrite(str(target / name), reduced, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise UserError(f'{target / name} cannot be written')
        objects = [(label, tuple(scale * value for value in corners)) for label, corners in image.objects]
        return VocImage(name, *size, objects)  # type: ignore[arg-type]

    return _convert(out, splits, reduce, CARDS_CLASSES, counts, first_image_id=1)


def _names(root: Path, split: str) -> list[str]:
    file = root / f'ImageSets/Main/{split}.txt'
    _must_exist(file)
    return file.read_text().split()


def _must_exist(file: Path) -> None:
    if not file.is_file():
        raise UserError(f'there is no file {file}; give the folder of a checkout')


def _convert(
    out: Path,
    read: Callable[[], dict[str, list[VocImage]]],
    write_image: Callable[[VocImage, str, Path], VocImage],
    classes: tuple[str, ...],
    counts: Mapping[str, int] | None,
    first_image_id: int,
) -> dict[str, tuple[int, int]]:
    if os.access(out, os.F_OK):  # not out.exists(), which raises an error if the folder cannot be read
        raise UserError(f'{out} exists already; name a new folder')
    splits = read()
    found = {split: len(images) for split, images in splits.items()}
    if counts is not None and found != dict(counts):
        raise UserError(
            f'the data set has {_listed(counts)} images, and this checkout has {_listed(found)}: it is incomplete or '
            'another version'
        )
    sizes = {}
    with new_folder(out) as made:
        (made / 'images').mkdir()
        for split, images in splits.items():
            written = [write_image(image, split, made / 'images') for image in images]
            content: dict[str, Any] = to_coco(written, classes, first_image_id)
            (made / f'{split}.json').write_text(json.dumps(content))
            sizes[split] = (len(written), len(content['annotations']))
    return sizes


def _listed(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{count} {split}' for split, count in counts.items())
