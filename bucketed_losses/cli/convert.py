"""Convert a checkpoint of another code base to the names of this package's detectors.

bucketed-losses convert published CONFIG SOURCE.pth --out OURS.pth [--partial] [--force]
bucketed-losses convert co-detr CONFIG SOURCE.pth --out OURS.pth [--partial] [--force]

``published`` is the paper's own repository (MMDetection 2.25), ``co-detr`` the original Co-Deformable-DETR and Co-DINO,
the fork of it that has BRS-DETR, and projects/CO-DETR of MMDetection 3. CONFIG is the detector that will load the
result, e.g. configs/atss/atss_r50_fpn_brs_4xb4-1x_coco.py or configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py.
The report lists every name. Without --partial, a file is written only if the names of both correspond one to one.

Names and shapes do not show everything that a checkpoint depends on, such as anchors and the coding of boxes. These
settings are compared with the original config, which is ``--published-config``, or its text in the checkpoint. If boxes
are coded differently, the weights are rescaled, so that the boxes are the same. Any other difference is named, and
nothing is written.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine import load_safely
from bucketed_losses.mmdet.engine.co_detr_checkpoints import convert_co_detr
from bucketed_losses.mmdet.engine.config import enter_scope
from bucketed_losses.mmdet.engine.config_checks import check_keys, read_config
from bucketed_losses.mmdet.engine.conversion import Conversion
from bucketed_losses.mmdet.engine.implicit_settings import (
    Coder,
    config_in_text,
    describe,
    differences,
    recode,
    settings_of,
)
from bucketed_losses.mmdet.engine.published_checkpoints import convert_published
from bucketed_losses.new_files import new_files

from ._arguments import add_force, add_out, refuse_to_overwrite

HELP = "Convert a checkpoint of the paper's own repository or of Co-DETR to the names of this package."
CONVERTERS = {'published': convert_published, 'co-detr': convert_co_detr}
# What all configs of Co-DETR, Co-DINO and BRS-DETR there have, for checkpoints without a config.
ASSUMED = {'published': {}, 'co-detr': {'rpn_head.bbox_coder': Coder((0.0,) * 4, (1.0,) * 4)}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'origin',
        choices=CONVERTERS,
        help="where the checkpoint comes from: the paper's own repository (published), or the original "
        "Co-Deformable-DETR or Co-DINO, BRS-DETR's fork of it, or MMDetection's projects/CO-DETR (co-detr)",
    )
    parser.add_argument('config', help='the config of the detector that will load the result')
    parser.add_argument('source', type=Path, help='the original checkpoint')
    parser.add_argument(
        '--published-config',
        metavar='FILE',
        help='the config of the original repository that the checkpoint was trained with (default: its text in the '
        'checkpoint)',
    )
    add_out(parser, 'write the converted checkpoint to this file', required=True, metavar='OURS.pth')
    add_force(parser)
    parser.add_argument('--partial', action='store_true', help='write the file even if names are missing or left over')


def run(args: argparse.Namespace) -> None:
    refuse_to_overwrite(args.out, force=args.force)
    checkpoint = load_safely(args.source)
    cfg = read_config(args.config)
    check_keys(cfg, ['model'])
    enter_scope(cfg)
    model = MODELS.build(cfg.model)  # for its names and shapes
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, dict):
        raise UserError(f'{args.source}: the file is not a checkpoint: its state_dict is a {type(weights).__name__}')
    try:
        conversion = CONVERTERS[args.origin](weights, model.state_dict())
    except ValueError as error:
        raise UserError(f'{args.source}: {error}') from error
    print(conversion.report())
    _compare_settings(args, checkpoint, cfg, conversion)
    if not (conversion.complete or args.partial):
        raise UserError(
            f'the names in {args.source} do not match those of {args.config} (see above), so no file was written; '
            '--partial writes the names that match'
        )
    meta: dict[str, Any] = {}
    if classes := _classes(checkpoint):
        meta['dataset_meta'] = {'classes': classes}
    content = io.BytesIO()  # torch.save says less than a file about a full disk
    torch.save({'meta': meta, 'state_dict': conversion.state_dict}, content)
    with new_files(args.out) as (temporary,):
        temporary.write_bytes(content.getvalue())
    print(f'written to {args.out}')


def _part(content: dict, key: str) -> dict:
    """A dict in a checkpoint; an empty one if it is missing, or None."""
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _classes(checkpoint: dict) -> tuple:
    """The names of the classes in a checkpoint of MMDetection 2, or of MMEngine, where they once had capitals, too."""
    meta = _part(checkpoint, 'meta')
    for part in (meta, _part(meta, 'dataset_meta')):
        for key in ('CLASSES', 'classes'):
            if classes := part.get(key):
                return (classes,) if isinstance(classes, str) else tuple(classes)
    return ()


def _compare_settings(args: argparse.Namespace, checkpoint: dict, cfg: Config, conversion: Conversion) -> None:
    """Compare what names and shapes do not show; rescale weights where this makes up for a difference.

    Raises:
        UserError: another difference would let the detector run wrongly.
    """
    source = _original_settings(args, checkpoint)
    if source is None:
        source = ASSUMED[args.origin]
        print(
            'The checkpoint contains no config: anchors, box coders and other settings that names and shapes do not '
            'show were not compared. --published-config compares them'
        )
    refused = []
    for key, (original, ours) in differences(source, settings_of(cfg.model)).items():
        difference = f'model.{key}: {describe(original)} in the original, {describe(ours)} in {args.config}'
        head, _, setting = key.rpartition('.')
        if setting == 'bbox_coder' and recode(conversion.state_dict, head, original, ours):
            print(f'{difference}; the last layer of {head} is rescaled, so that the boxes are the same')
        else:
            refused.append(difference)
    if refused:
        raise UserError(
            f'{args.source} would run wrongly with {args.config}; nothing was written. Give the config the settings of '
            'the original:\n' + '\n'.join(refused)
        )


def _original_settings(args: argparse.Namespace, checkpoint: dict) -> dict[str, Any] | None:
    """The settings of the config that a checkpoint was trained with, or None if it is not known."""
    if args.published_config is not None:
        original = read_config(args.published_config)
        check_keys(original, ['model'])
        return settings_of(original.model, original.get('img_norm_cfg'))
    meta = _part(checkpoint, 'meta')
    text = meta.get('config', meta.get('cfg'))  # of MMDetection 2, and of MMEngine
    config = config_in_text(text) if isinstance(text, str) else None
    return None if config is None else settings_of(**config)
