"""COCO-format data sets; if their files are missing, the error says how to get them."""

from __future__ import annotations

from mmdet.registry import DATASETS

from .checked_coco import CheckedCocoDataset
from .shapes import CLASSES

BCCD_CLASSES = ('RBC', 'WBC', 'Platelets')
CARDS_CLASSES = ('nine', 'ten', 'jack', 'queen', 'king', 'ace')


@DATASETS.register_module()
class BCCDDataset(CheckedCocoDataset):
    """Blood Cell Count and Detection: 364 microscope photographs, 4,886 boxes, in COCO format."""

    METAINFO = {
        'classes': BCCD_CLASSES,
        'palette': [(220, 20, 60), (0, 114, 189), (237, 177, 32)],
    }
    HOW_TO_GET = (
        'Clone the public repository github.com/Shenggan/BCCD_Dataset, and convert it with the command '
        '"bucketed-losses convert-data bccd BCCD_Dataset". For another folder than data/bccd, set the environment '
        "variable BCCD_ROOT, or pass --cfg-options data_root=FOLDER to this project's tools."
    )


@DATASETS.register_module()
class CardsDataset(CheckedCocoDataset):
    """Playing cards: 363 photographs, 670 boxes of six ranks, in COCO format."""

    METAINFO = {
        'classes': CARDS_CLASSES,
        'palette': [(220, 20, 60), (0, 114, 189), (237, 177, 32), (119, 172, 48), (126, 47, 142), (77, 190, 238)],
    }
    HOW_TO_GET = (
        'Clone the public repository github.com/EdjeElectronics/'
        'TensorFlow-Object-Detection-API-Tutorial-Train-Multiple-Objects-Windows-10, and convert it with the command '
        '"bucketed-losses convert-data cards FOLDER". For another folder than data/cards, set the environment variable '
        "CARDS_ROOT, or pass --cfg-options data_root=FOLDER to this project's tools."
    )


@DATASETS.register_module()
class ShapesDataset(CheckedCocoDataset):
    """Drawn shapes with clutter, occlusion and class imbalance, made by ``bucketed-losses shapes``."""

    METAINFO = {
        'classes': CLASSES,
        'palette': [(220, 20, 60), (0, 114, 189), (237, 177, 32), (119, 172, 48)],
    }
    HOW_TO_GET = (
        'Make it with the command "bucketed-losses shapes". For another folder set the environment variable '
        "SHAPES_ROOT, or pass --cfg-options data_root=FOLDER to this project's tools."
    )
