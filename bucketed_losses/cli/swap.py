"""Write the ranking-loss version of an MMDetection config.

bucketed-losses swap CONFIG [--loss brs|rs|bap|ap|alrp|dr] [--out OUT.py] [--print-diff] [--force]

CONFIG is a file, or a name such as mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py. OUT inherits it and states
only the difference, with its reasons and notes on what else to do; without --out nothing is written and the difference
is printed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.config_checks import (
    CONFIG_SUFFIXES,
    find_config,
    lazy_config_files,
    read_editable_config,
)
from bucketed_losses.mmdet.swap import LOSSES, Swap, SwapError, swap_loss
from bucketed_losses.new_files import new_files

from ._arguments import add_force, add_out, refuse_to_overwrite

HELP = 'Put a ranking loss into a config of MMDetection and write what changes as a new config.'


def text_of(swap: Swap, base: str | None) -> str:
    """The text of the new config, below ``_base_ = base`` or, without one, in full."""
    lines = [f'{change.path}: {change.reason}.' for change in swap.changes]
    if swap.notes:
        lines += ['', *(f'note: {note}.' for note in swap.notes)]
    docstring = '\n'.join(lines)
    body = Config(swap.overrides if base else swap.cfg._cfg_dict.to_dict()).pretty_text
    inherit = f'_base_ = {base!r}\n\n' if base else ''
    return f'"""Written by bucketed-losses swap.\n\n{docstring}\n"""\n\n{inherit}{body}'


def refuse_to_lose_sources(out: Path, file: Path, cfg: Config, inherits: bool) -> None:
    """Refuse, also with ``--force``, to replace a config that is swapped or inherited.

    Raises:
        UserError: ``out`` is the file of the config, or one that it inherits.
    """
    if inherits:
        # The text of a config names each file that it was read from in a line above its content.
        read = [file, *(Path(line) for line in cfg.text.splitlines() if line.endswith(CONFIG_SUFFIXES))]
    else:
        read = lazy_config_files(file)
    if out.resolve() in [path.resolve() for path in read]:
        raise UserError(f'--out {out} is the config itself or one that it inherits, which would be lost')


def write(swap: Swap, name: str, file: Path, inherits: bool, out: Path, force: bool) -> None:
    """Write the config and read it again.

    Raises:
        UserError: ``out`` exists and ``force`` is False, it cannot be written, or the written file would differ from
            the converted config.
    """
    refuse_to_overwrite(out, force=force)
    if out.suffix != '.py':
        raise UserError(f'the name of the new config must end in .py, got {out}')
    base = None
    if inherits:
        base = name if '::' in name else os.path.relpath(file.resolve(), out.resolve().parent)
    with new_files(out) as (temporary,):
        temporary.write_text(text_of(swap, base))
        written = Config.fromfile(temporary, import_custom_modules=False)
        if _without_scope(written.model.to_dict()) != _without_scope(swap.cfg.model.to_dict()):
            raise UserError(
                f'{out} was not written, because it would differ from the converted config; please report {name}'
            )


def _without_scope(part: Any) -> Any:
    """What MMEngine notes in a config that inherits one of a package is no setting."""
    if isinstance(part, dict):
        return {key: _without_scope(value) for key, value in part.items() if key != '_scope_'}
    return [_without_scope(value) for value in part] if isinstance(part, (list, tuple)) else part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='a config file, or a name such as mmdet::atss/atss_r50_fpn_1x_coco.py')
    parser.add_argument(
        '--loss',
        default='brs',
        help=f'choose the ranking loss: {", ".join(LOSSES)}, or the name of a registered loss (default: brs)',
    )
    add_out(parser, 'write the new config to this file; without it, only print the changes', old='-o', metavar='OUT.py')
    parser.add_argument('--print-diff', action='store_true', help='print every change with its reason')
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    file = find_config(args.config)
    cfg, inherits = read_editable_config(file)
    try:
        swap = swap_loss(cfg, args.loss)
    except SwapError as error:
        raise UserError(f'{args.config}: {error}') from error
    if args.print_diff or args.out is None:
        print(swap.diff())
    else:
        print(''.join(f'note: {note}\n' for note in swap.notes), end='')
    if args.out is not None:
        refuse_to_lose_sources(args.out, file, cfg, inherits)
        write(swap, args.config, file, inherits, args.out, args.force)
        print(f'written to {args.out}')
