"""What the command lines that convert checkpoints share."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _needs_mmdet  # noqa: F401
import torch
from _checkpoint import load_safely
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.config_checks import check_keys, read_config
from bucketed_losses.mmdet.engine.conversion import Conversion
from bucketed_losses.new_files import new_files


def run(what: str, convert: Callable[..., Conversion], argv: list[str] | None) -> None:
    """Convert a checkpoint of ``what`` for the model of a config, as the command line says."""
    parser = argparse.ArgumentParser(description=f'Convert a checkpoint of {what}')
    parser.add_argument('config', help='config of the detector that will load the result')
    parser.add_argument('source', type=Path, help='the original checkpoint')
    parser.add_argument('target', type=Path, help='file to write')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error in the input')
    parser.add_argument('--partial', action='store_true', help='write it even if names are missing or left over')
    args = parser.parse_args(argv)
    if args.target.exists():
        raise UserError(f'{args.target} exists already')
    checkpoint = load_safely(args.source)
    cfg = read_config(args.config)
    check_keys(cfg, ['model'])
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model)  # for its names and shapes
    try:
        conversion = convert(checkpoint.get('state_dict', checkpoint), model.state_dict())
    except ValueError as error:
        raise UserError(f'{args.source}: {error}') from error
    print(conversion.report())
    if not (conversion.complete or args.partial):
        raise UserError(
            f'{args.source} and {args.config} do not belong together, name by name (see above); '
            'nothing was written. --partial writes what fits'
        )
    meta: dict[str, Any] = {}
    if classes := checkpoint.get('meta', {}).get('CLASSES'):
        meta['dataset_meta'] = {'classes': tuple(classes)}
    content = io.BytesIO()  # torch.save says less than a file about a full disk
    torch.save({'meta': meta, 'state_dict': conversion.state_dict}, content)
    with new_files(args.target) as (temporary,):
        temporary.write_bytes(content.getvalue())
    print(f'written to {args.target}')
