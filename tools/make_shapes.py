"""Make the embedded data set of drawn shapes.

python tools/make_shapes.py [data/shapes] [--num-train 320] [--num-val 80] [--size 192] [--seed 0]
"""

from __future__ import annotations

import argparse
import os

from bucketed_losses.datasets.shapes import ShapesSpec, make_shapes


def main(argv: list[str] | None = None) -> None:
    default = ShapesSpec()
    parser = argparse.ArgumentParser(description='Make the data set of drawn shapes')
    parser.add_argument('root', nargs='?', default=os.environ.get('SHAPES_ROOT', 'data/shapes'), help='folder to write')
    parser.add_argument('--num-train', type=int, default=default.num_train, help='training images')
    parser.add_argument('--num-val', type=int, default=default.num_val, help='validation images')
    parser.add_argument('--size', type=int, default=default.size, help='width and height in pixels')
    parser.add_argument('--max-objects', type=int, default=default.max_objects, help='most objects per image')
    parser.add_argument('--seed', type=int, default=default.seed)
    args = vars(parser.parse_args(argv))
    root = args.pop('root')
    try:
        print(f'Drawn shapes are in {make_shapes(root, ShapesSpec(**args))}')
    except (ValueError, FileExistsError) as error:
        raise SystemExit(f'make_shapes: {error}') from error


if __name__ == '__main__':
    main()
