"""Convert a checkpoint of another code base to the names of this package's detectors.

bucketed-losses convert published CONFIG SOURCE.pth --out OURS.pth [--partial] [--force]
bucketed-losses convert co-detr CONFIG SOURCE.pth --out OURS.pth [--partial] [--force]

``published`` is the paper's own repository (MMDetection 2.25), ``co-detr`` the original Co-Deformable-DETR and the fork
of it that has BRS-DETR. CONFIG is the detector that will load the result, e.g.
configs/atss/atss_r50_fpn_brs_4xb4-1x_coco.py or configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py. The report
lists every name. Without --partial, a file is written only if the names of both correspond one to one.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine import load_safely
from bucketed_losses.mmdet.engine.co_detr_checkpoints import convert_co_detr
from bucketed_losses.mmdet.engine.config_checks import check_keys, read_config
from bucketed_losses.mmdet.engine.published_checkpoints import convert_published
from bucketed_losses.new_files import new_files

from ._arguments import add_force, add_out, refuse_to_overwrite

HELP = "Convert a checkpoint of the paper's own repository or of Co-DETR to the names of this package."
CONVERTERS = {'published': convert_published, 'co-detr': convert_co_detr}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'origin',
        choices=CONVERTERS,
        help="where the checkpoint comes from: the paper's own repository (published), or the original "
        "Co-Deformable-DETR or BRS-DETR's fork of it (co-detr)",
    )
    parser.add_argument('config', help='the config of the detector that will load the result')
    parser.add_argument('source', type=Path, help='the original checkpoint')
    add_out(parser, 'write the converted checkpoint to this file', required=True, metavar='OURS.pth')
    add_force(parser)
    parser.add_argument('--partial', action='store_true', help='write the file even if names are missing or left over')


def run(args: argparse.Namespace) -> None:
    refuse_to_overwrite(args.out, force=args.force)
    checkpoint = load_safely(args.source)
    cfg = read_config(args.config)
    check_keys(cfg, ['model'])
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model)  # for its names and shapes
    try:
        conversion = CONVERTERS[args.origin](checkpoint.get('state_dict', checkpoint), model.state_dict())
    except ValueError as error:
        raise UserError(f'{args.source}: {error}') from error
    print(conversion.report())
    if not (conversion.complete or args.partial):
        raise UserError(
            f'the names in {args.source} do not match those of {args.config} (see above), so no file was written; '
            '--partial writes the names that match'
        )
    meta: dict[str, Any] = {}
    if classes := checkpoint.get('meta', {}).get('CLASSES'):
        meta['dataset_meta'] = {'classes': tuple(classes)}
    content = io.BytesIO()  # torch.save says less than a file about a full disk
    torch.save({'meta': meta, 'state_dict': conversion.state_dict}, content)
    with new_files(args.out) as (temporary,):
        temporary.write_bytes(content.getvalue())
    print(f'written to {args.out}')
