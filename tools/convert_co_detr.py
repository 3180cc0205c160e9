"""Convert a Co-Deformable-DETR checkpoint of the original repository to this package's names.

python tools/convert_co_detr.py CONFIG ORIGINAL.pth OURS.pth [--partial]

CONFIG is the detector that will load it, e.g. configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py. Every name is
accounted for; unless each finds its place, and each place its name, nothing is written.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from bucketed_losses.engine.co_detr_checkpoints import convert_co_detr


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Convert an original Co-Deformable-DETR checkpoint')
    parser.add_argument('config', help='config of the detector that will load the result')
    parser.add_argument('source', type=Path, help='the original checkpoint')
    parser.add_argument('target', type=Path, help='file to write')
    parser.add_argument('--partial', action='store_true', help='write it even if names are missing or left over')
    args = parser.parse_args(argv)
    if args.target.exists():
        raise SystemExit(f'convert_co_detr: {args.target} exists already')
    checkpoint = _load(args.source)
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model)  # for its names and shapes
    try:
        conversion = convert_co_detr(checkpoint.get('state_dict', checkpoint), model.state_dict())
    except ValueError as error:
        raise SystemExit(f'convert_co_detr: {args.source}: {error}') from error
    print(conversion.report())
    if not (conversion.complete or args.partial):
        raise SystemExit(
            f'convert_co_detr: {args.source} and {args.config} do not belong together, name by name (see above); '
            'nothing was written. --partial writes what fits'
        )
    meta: dict[str, Any] = {}
    if classes := checkpoint.get('meta', {}).get('CLASSES'):
        meta['dataset_meta'] = {'classes': tuple(classes)}
    torch.save({'meta': meta, 'state_dict': conversion.state_dict}, args.target)
    print(f'written to {args.target}')


def _load(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (FileNotFoundError, pickle.UnpicklingError, RuntimeError) as error:
        raise SystemExit(f'convert_co_detr: {path} cannot be loaded safely: {error}') from error
    if not isinstance(checkpoint, dict):
        raise SystemExit(f'convert_co_detr: {path} holds a {type(checkpoint).__name__}, not a checkpoint')
    return checkpoint


if __name__ == '__main__':
    main()
