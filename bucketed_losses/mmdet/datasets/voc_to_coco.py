"""Reads annotations in the XML format of Pascal VOC and writes them as COCO JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from ...errors import UserError

MIN_SIZE = 2.0
"""Boxes with a side below this many pixels are left out: nothing can be trained on them."""


class VocImage(NamedTuple):
    """The annotations of one image.

    Attributes:
        file_name: The name of the image's file.
        width: The width in pixels.
        height: The height in pixels.
        objects: The name of the class and the corners ``(x1, y1, x2, y2)`` in pixels of each box.
    """

    file_name: str
    width: int
    height: int
    objects: list[tuple[str, tuple[float, float, float, float]]]


def read_voc(file: Path) -> VocImage:
    """Read one XML file.

    Raises:
        UserError: The file does not exist, or it is not VOC XML.
    """
    try:
        root = ElementTree.parse(file).getroot()
        corners = ('xmin', 'ymin', 'xmax', 'ymax')
        return VocImage(
            _text(root, 'filename'),
            int(_text(root, 'size/width')),
            int(_text(root, 'size/height')),
            [
                (_text(item, 'name'), tuple(float(_text(item, f'bndbox/{corner}')) for corner in corners))  # type: ignore[misc]
                for item in root.iter('object')
            ],
        )
    except FileNotFoundError as error:
        raise UserError(f'there is no annotation {file}') from error
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f'{file} is not an annotation in VOC XML: {error}') from error


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if not text:
        raise ValueError(f'it has no {path}')
    return text.strip()


def to_coco(images: Iterable[VocImage], classes: Sequence[str], first_image_id: int = 0) -> dict[str, Any]:
    """The content of a COCO JSON file. Categories and boxes are numbered from 1.

    Boxes are cut at the border of their image; boxes with a side under :data:`MIN_SIZE` pixels are left out.

    Args:
        images: The images, in the order of the file.
        classes: The names of the classes; category 1 is the first of them.
        first_image_id: The id of the first image.

    Raises:
        UserError: A box has another class.
    """
    ids = {name: index for index, name in enumerate(classes, 1)}
    entries: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, first_image_id):
        entries.append({'id': image_id, 'file_name': image.file_name, 'width': image.width, 'height': image.height})
        for name, (x1, y1, x2, y2) in image.objects:
            if name not in ids:
                raise UserError(f'{image.file_name} has a box of the class {name!r}; expected one of {", ".join(ids)}')
            left, top = max(x1, 0.0), max(y1, 0.0)
            width, height = min(x2, image.width) - left, min(y2, image.height) - top
            if min(width, height) < MIN_SIZE:
                continue
            # Two digits behind the point, as an annotation tool would write them.
            box = [round(value, 2) for value in (left, top, width, height)]
            boxes.append(
                {
                    'id': len(boxes) + 1,
                    'image_id': image_id,
                    'category_id': ids[name],
                    'bbox': box,
                    'area': round(width * height, 2),
                    'iscrowd': 0,
                }
            )
    categories = [{'id': index, 'name': name} for name, index in ids.items()]
    return {'images': entries, 'annotations': boxes, 'categories': categories}
