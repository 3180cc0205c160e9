"""Convert a checkout of a public data set to the COCO JSON files that the small configs read.

bucketed-losses convert-data bccd SOURCE [--out data/bccd]      # for configs/bccd
bucketed-losses convert-data cards SOURCE [--out data/cards]    # for configs/cards

SOURCE is a clone of Shenggan/BCCD_Dataset, or of EdjeElectronics' tutorial with playing cards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bucketed_losses.mmdet.datasets.public_sets import convert_bccd, convert_cards

from ._arguments import add_out

HELP = 'Convert a checkout of a public data set to the files that the configs for small data read.'
CONVERTERS = {'bccd': convert_bccd, 'cards': convert_cards}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument('data', choices=CONVERTERS, help='the data set: blood cells (bccd) or playing cards (cards)')
    parser.add_argument('source', type=Path, help='the folder of the checkout')
    add_out(parser, 'write the data set to this new folder (default: data/bccd or data/cards)', metavar='FOLDER')


def run(args: argparse.Namespace) -> None:
    """Convert, and print the number of images and boxes."""
    out = args.out or Path('data', args.data)
    for split, (images, boxes) in CONVERTERS[args.data](args.source, out).items():
        print(f'{split}: {images} images, {boxes} boxes')
    print(f'{args.data} is in {out}; set {args.data.upper()}_ROOT to this folder, unless it is data/{args.data}')
