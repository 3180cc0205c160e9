"""Make the embedded data set of drawn shapes.

bucketed-losses shapes [--out data/shapes] [--num-train 320] [--num-val 80] [--size 192] [--seed 0]
bucketed-losses shapes --out data/shapes_rare4 --rare-share 0.25   # fewer training objects of the rarest class
bucketed-losses shapes --out FOLDER --format coco2017        # for configs on COCO, --cfg-options data_root=FOLDER
bucketed-losses shapes --out FOLDER --format lvis            # for configs/lvis, likewise
bucketed-losses shapes --out FOLDER --format cityscapes      # for configs/cityscapes, likewise
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.datasets.shapes import ShapesSpec, make_shapes
from bucketed_losses.mmdet.datasets.shapes_formats import shapes_to_cityscapes, shapes_to_coco, shapes_to_lvis

from ._arguments import add_out

HELP = 'Make the data set of drawn shapes, which the CPU-sized configs train on.'
CONVERTERS = {'coco2017': shapes_to_coco, 'lvis': shapes_to_lvis, 'cityscapes': shapes_to_cityscapes}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_out(
        parser,
        'write the data set to this folder (default: the environment variable SHAPES_ROOT, or data/shapes)',
        default=Path(os.environ.get('SHAPES_ROOT', 'data/shapes')),
        metavar='FOLDER',
    )
    parser.add_argument(
        '--format', choices=['coco', *CONVERTERS], default='coco', help='choose the layout of the files (default: coco)'
    )
    numbers = {
        'num_train': 'set the number of training images',
        'num_val': 'set the number of validation images',
        'size': 'set the width and height of an image in pixels',
        'max_objects': 'set the largest number of objects in an image',
        'seed': 'set the seed of the random numbers',
    }
    for field, what in numbers.items():
        default = getattr(ShapesSpec(), field)
        parser.add_argument(
            f'--{field.replace("_", "-")}', type=int, default=default, help=f'{what} (default: {default})'
        )
    parser.add_argument(
        '--rare-share',
        type=float,
        default=1.0,
        metavar='X',
        help='draw only this share of the stars, the rarest class, in the training images (default: 1.0)',
    )


def run(args: argparse.Namespace) -> None:
    root, layout = args.out, args.format
    try:
        spec = ShapesSpec(args.num_train, args.num_val, args.size, args.max_objects, args.seed, args.rare_share)
        if layout == 'coco':
            make_shapes(root, spec)
        else:
            with tempfile.TemporaryDirectory() as tmp:
                CONVERTERS[layout](make_shapes(Path(tmp) / 'shapes', spec), root)
        print(f'Drawn shapes are in {root}')
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
