"""Make the embedded data set of drawn shapes.

python tools/make_shapes.py [data/shapes] [--num-train 320] [--num-val 80] [--size 192] [--seed 0]
python tools/make_shapes.py FOLDER --format lvis            # for configs/lvis, --cfg-options data_root=FOLDER
python tools/make_shapes.py FOLDER --format cityscapes      # for configs/cityscapes, likewise
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from bucketed_losses.errors import UserError, one_line_errors
from bucketed_losses.mmdet.datasets.shapes import ShapesSpec, make_shapes
from bucketed_losses.mmdet.datasets.shapes_formats import shapes_to_cityscapes, shapes_to_lvis

CONVERTERS = {'lvis': shapes_to_lvis, 'cityscapes': shapes_to_cityscapes}


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    default = ShapesSpec()
    parser = argparse.ArgumentParser(description='Make the data set of drawn shapes')
    parser.add_argument('root', nargs='?', default=os.environ.get('SHAPES_ROOT', 'data/shapes'), help='folder to write')
    parser.add_argument('--format', choices=['coco', *CONVERTERS], default='coco', help='layout of the files')
    parser.add_argument('--num-train', type=int, default=default.num_train, help='training images')
    parser.add_argument('--num-val', type=int, default=default.num_val, help='validation images')
    parser.add_argument('--size', type=int, default=default.size, help='width and height in pixels')
    parser.add_argument('--max-objects', type=int, default=default.max_objects, help='most objects per image')
    parser.add_argument('--seed', type=int, default=default.seed)
    args = vars(parser.parse_args(argv))
    root, layout = args.pop('root'), args.pop('format')
    try:
        spec = ShapesSpec(**args)
        if layout == 'coco':
            make_shapes(root, spec)
        else:
            with tempfile.TemporaryDirectory() as tmp:
                CONVERTERS[layout](make_shapes(Path(tmp) / 'shapes', spec), root)
        print(f'Drawn shapes are in {root}')
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


if __name__ == '__main__':
    main()
