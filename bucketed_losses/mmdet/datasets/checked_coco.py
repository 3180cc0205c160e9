"""COCO-format data sets that check their files and report what is wrong."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdet.datasets import CityscapesDataset, CocoDataset, LVISV1Dataset
from mmdet.registry import DATASETS
from mmengine.fileio import get_text
from mmengine.logging import print_log

from ...errors import UserError

if TYPE_CHECKING:
    from mmdet.datasets import CocoDataset as _Host
else:
    _Host = object


# Fields of a COCO file.
_FIELDS = ('images', 'annotations', 'categories', 'id', 'file_name', 'coco_url', 'width', 'height', 'name')
# Fields that every annotation needs.
_NEEDED = ('image_id', 'bbox', 'category_id', 'area')
_UNKNOWN_CATEGORY = 'of a category that the file does not have'
_UNKNOWN_IMAGE = 'on an image that the file does not have'


class MissingAnnotationsError(UserError, FileNotFoundError):
    """An annotation file does not exist."""


class CheckedAnnotationsMixin(_Host):
    """A mixin for ``CocoDataset``: errors name damaged files, and unusable boxes are counted and logged.

    Boxes with a side below one pixel, of zero area or outside their image are left out, as in MMDetection. Boxes that
    are not finite are left out too (MMDetection trains on boxes that are NaN), as are boxes with a category or an image
    that is not in the file. One warning per annotation file counts the boxes of each kind and gives examples.

    Attributes:
        categories: The categories of the file. MMDetection does not keep them.

    Raises:
        MissingAnnotationsError: The annotation file is missing.
        UserError: The file is not JSON or not in COCO format, an annotation lacks a field, a category or an image
            occurs twice, or all boxes are left out.
        RuntimeError: While training, an image cannot be read or a transform fails on it; the message names the image.
    """

    HOW_TO_GET = ''

    def load_data_list(self) -> list[dict]:
        name = type(self).__name__
        self._left_out: dict[str, list] = defaultdict(list)
        self._file_checked = False
        self._num_annotations = 0
        try:
            data_list = super().load_data_list()
        except (FileNotFoundError, IsADirectoryError) as error:
            file = self.ann_file if '://' in self.ann_file else Path(self.ann_file).resolve()
            raise MissingAnnotationsError(
                f'{name}: annotation file {file} does not exist. {self.HOW_TO_GET}'.rstrip()
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f'{name}: annotation file {self.ann_file} is not valid JSON: {error}') from error
        except (KeyError, TypeError, AssertionError) as error:
            if isinstance(error, KeyError) and error.args[0] in _NEEDED:
                self._name_incomplete_annotation()
            if isinstance(error, KeyError) and error.args[0] not in (*_FIELDS, *_NEEDED):  # an error in the config
                raise
            raise UserError(f'{name}: annotation file {self.ann_file} is not in COCO format: {error!r}') from error
        if self._left_out:
            kinds = [f'{len(ids)} {kind} (annotation ids {_examples(ids)})' for kind, ids in self._left_out.items()]
            # The other boxes may be of classes that are not in the config.
            if sum(map(len, self._left_out.values())) == self._num_annotations:
                raise UserError(f'{name}: {self.ann_file}: none of its boxes can be used: {"; ".join(kinds)}')
            print_log(
                f'{name}: {self.ann_file}: boxes that are not used: {"; ".join(kinds)}.', 'current', logging.WARNING
            )
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict | list[dict]:
        if not self._file_checked:
            self._check_file()
            self._file_checked = True
        image = raw_data_info['raw_img_info']
        self._num_annotations += len(raw_data_info['raw_ann_info'])
        kept = []
        for annotation in raw_data_info['raw_ann_info']:
            self._check_annotation(annotation)
            if annotation['category_id'] in self._category_ids:
                problem = box_problem(annotation['bbox'], image['width'], image['height'], annotation['area'])
            else:
                problem = _UNKNOWN_CATEGORY
            if problem is None:
                kept.append(annotation)
            else:
                self._left_out[problem].append(annotation.get('id'))
        return super().parse_data_info({**raw_data_info, 'raw_ann_info': kept})

    def _check_file(self) -> None:
        """Compare the file with its index, which the base class builds and removes after all images are parsed."""
        index = getattr(self, 'coco', None) or self.lvis
        where = f'{type(self).__name__}: {self.ann_file}'
        for kind, field, found in (('image', 'images', index.imgs), ('category', 'categories', index.cats)):
            if len(found) != len(index.dataset[field]):
                raise UserError(f'{where}: the same {kind} id occurs more than once: {_repeated(index.dataset[field])}')
        names = Counter(category['name'] for category in index.dataset['categories'])
        twice = [name for name in self.metainfo.get('classes', ()) if names[name] > 1]
        if twice:
            raise UserError(f'{where}: the same category name occurs more than once: {_examples(twice)}')
        for image, entries in index.img_ann_map.items():
            if image not in index.imgs:
                self._left_out[_UNKNOWN_IMAGE] += [annotation.get('id') for annotation in entries]
                self._num_annotations += len(entries)
        self.categories = index.dataset['categories']
        self._category_ids = frozenset(index.cats)

    def _check_annotation(self, annotation: dict) -> None:
        missing = [key for key in _NEEDED if key not in annotation]
        if missing:
            raise UserError(
                f'{type(self).__name__}: {self.ann_file}: annotation {annotation.get("id")} has no {missing[0]}'
            )

    def _name_incomplete_annotation(self) -> None:
        """Read the file again and raise the error for the first annotation that lacks a field."""
        for annotation in json.loads(get_text(self.ann_file, backend_args=self.backend_args))['annotations']:
            self._check_annotation(annotation)

    def prepare_data(self, idx: int) -> Any:
        try:
            return super().prepare_data(idx)
        except Exception as error:
            path = self.get_data_info(idx).get('img_path')
            raise RuntimeError(f'{type(self).__name__}: image {path} cannot be used: {error}') from error


def _repeated(entries: list[dict]) -> str:
    counts = Counter(entry['id'] for entry in entries)
    return _examples([value for value, count in counts.items() if count > 1])


def _examples(values: list) -> str:
    return ', '.join(map(str, values[:5])) + (', …' if len(values) > 5 else '')


def box_problem(box: Any, width: float, height: float, area: float) -> str | None:
    """The reason why a COCO box ``[x, y, w, h]`` cannot be used for training, or None if it can.

    Args:
        box: The box in pixels.
        width, height: Those of the image.
        area: The ``area`` of the annotation, which may be that of a mask.
    """
    numbers = isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(x, (int, float)) for x in box)
    if not numbers:
        return 'not four numbers'
    if not all(map(math.isfinite, box)):
        return 'not finite'
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return 'of zero or negative size'
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return 'outside the image'
    if w < 1 or h < 1:
        return 'smaller than a pixel'
    if area <= 0:
        return 'of zero or negative area'
    return None


@DATASETS.register_module()
class CheckedCocoDataset(CheckedAnnotationsMixin, CocoDataset):
    """``CocoDataset`` with :class:`CheckedAnnotationsMixin`."""


@DATASETS.register_module()
class CheckedLVISV1Dataset(CheckedAnnotationsMixin, LVISV1Dataset):
    """``LVISV1Dataset`` with :class:`CheckedAnnotationsMixin`."""


@DATASETS.register_module()
class CheckedCityscapesDataset(CheckedAnnotationsMixin, CityscapesDataset):
    """``CityscapesDataset`` with :class:`CheckedAnnotationsMixin`."""
