"""COCO-format data sets that name what is wrong with their files."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdet.datasets import CityscapesDataset, CocoDataset, LVISV1Dataset
from mmdet.registry import DATASETS
from mmengine.logging import print_log

if TYPE_CHECKING:
    from mmdet.datasets import CocoDataset as _Host
else:
    _Host = object


# Of a COCO file; what an annotation needs is checked one by one.
_FIELDS = ('images', 'annotations', 'categories', 'id', 'image_id', 'file_name', 'coco_url', 'width', 'height', 'name')


class CheckedAnnotationsMixin(_Host):
    """Put before a ``CocoDataset``: damaged files are named, and boxes that train nothing are counted and logged.

    Boxes that are not finite, of zero or negative size or outside their image are left out, as MMDetection does (which
    trains on boxes that are NaN); one warning per annotation file counts each kind and gives examples.

    Raises:
        FileNotFoundError: the annotation file is missing.
        ValueError: it is not JSON, not COCO's, or an annotation lacks a field.
        RuntimeError: while training, an image could not be read or a transform failed on it; names the image.
    """

    HOW_TO_GET = ''

    def load_data_list(self) -> list[dict]:
        name = type(self).__name__
        if '://' not in self.ann_file and not Path(self.ann_file).is_file():
            raise FileNotFoundError(
                f'{name}: annotation file {Path(self.ann_file).resolve()} does not exist. {self.HOW_TO_GET}'.rstrip()
            )
        self._left_out: dict[str, list] = defaultdict(list)
        try:
            data_list = super().load_data_list()
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'{name}: annotation file {self.ann_file} is not valid JSON: {error}') from error
        except (KeyError, AssertionError) as error:
            if isinstance(error, KeyError) and error.args[0] not in _FIELDS:  # the config's mistake
                raise
            raise ValueError(f'{name}: annotation file {self.ann_file} is not in COCO format: {error!r}') from error
        if self._left_out:
            kinds = [
                f'{len(ids)} {kind} (annotation ids {", ".join(map(str, ids[:5]))}{", …" if len(ids) > 5 else ""})'
                for kind, ids in self._left_out.items()
            ]
            print_log(f'{name}: {self.ann_file}: left out boxes: {"; ".join(kinds)}.', 'current', logging.WARNING)
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict | list[dict]:
        image = raw_data_info['raw_img_info']
        kept = []
        for annotation in raw_data_info['raw_ann_info']:
            missing = [key for key in ('bbox', 'category_id', 'area') if key not in annotation]
            if missing:
                raise ValueError(
                    f'{type(self).__name__}: {self.ann_file}: annotation {annotation.get("id")} has no {missing[0]}'
                )
            problem = box_problem(annotation['bbox'], image['width'], image['height'])
            if problem is None:
                kept.append(annotation)
            else:
                self._left_out[problem].append(annotation.get('id'))
        return super().parse_data_info({**raw_data_info, 'raw_ann_info': kept})

    def prepare_data(self, idx: int) -> Any:
        try:
            return super().prepare_data(idx)
        except Exception as error:
            path = self.get_data_info(idx).get('img_path')
            raise RuntimeError(f'{type(self).__name__}: image {path} cannot be used: {error}') from error


def box_problem(box: Any, width: float, height: float) -> str | None:
    """Why a COCO box ``[x, y, w, h]`` cannot be trained on, or None."""
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
