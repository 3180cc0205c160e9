"""Write the ranking-loss version of an MMDetection config.

python tools/swap_loss.py CONFIG [--loss brs|rs|bap|ap|alrp|dr] [-o OUT.py] [--print-diff]

CONFIG is a file, or a name such as mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py. OUT inherits it and states
only the difference; without -o nothing is written and the difference is printed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import _needs_mmdet  # noqa: F401
from mmengine.config import Config

from bucketed_losses.errors import UserError, one_line_errors
from bucketed_losses.mmdet.engine.config_checks import find_config, read_config
from bucketed_losses.mmdet.swap import LOSSES, Swap, SwapError, swap_loss
from bucketed_losses.new_files import new_files


def load(file: Path) -> tuple[Config, bool]:
    """The config, and whether text can inherit it: a config of MMEngine's lazy kind is written out in full."""
    cfg = read_config(file, import_custom_modules=False)
    if file.suffix == '.py' and Config._is_lazy_import(str(file)):
        return Config.fromstring(cfg.pretty_text, '.py'), False
    return cfg, True


def text_of(swap: Swap, base: str | None) -> str:
    """The text of the new config, below ``_base_ = base`` or, without one, in full."""
    reasons = '\n'.join(f'{change.path}: {change.reason}.' for change in swap.changes)
    body = Config(swap.delta if base else swap.cfg._cfg_dict.to_dict()).pretty_text
    inherit = f'_base_ = {base!r}\n\n' if base else ''
    return f'"""Written by tools/swap_loss.py.\n\n{reasons}\n"""\n\n{inherit}{body}'


def write(swap: Swap, name: str, file: Path, inherits: bool, out: Path) -> None:
    """Write the config and read it again.

    Raises:
        UserError: ``out`` exists, cannot be written, or does not read back as what was meant.
    """
    if out.exists():
        raise UserError(f'{out} exists already')
    if out.suffix != '.py':
        raise UserError(f'the new config must end in .py, got {out}')
    base = None
    if inherits:
        base = name if '::' in name else os.path.relpath(file.resolve(), out.resolve().parent)
    with new_files(out) as (temporary,):
        temporary.write_text(text_of(swap, base))
        written = Config.fromfile(temporary, import_custom_modules=False)
        if _without_scope(written.model.to_dict()) != _without_scope(swap.cfg.model.to_dict()):
            raise UserError(f'{out} does not read back as it was meant; please report {name}')


def _without_scope(part: Any) -> Any:
    """What MMEngine notes in a config that inherits one of a package is no setting."""
    if isinstance(part, dict):
        return {key: _without_scope(value) for key, value in part.items() if key != '_scope_'}
    return [_without_scope(value) for value in part] if isinstance(part, (list, tuple)) else part


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Put a ranking loss into an MMDetection config')
    parser.add_argument('config', help='config file, or a name such as mmdet::atss/atss_r50_fpn_1x_coco.py')
    parser.add_argument('--loss', default='brs', help=f'{", ".join(LOSSES)}, or the name of a loss (default: brs)')
    parser.add_argument('-o', '--out', type=Path, help='config to write')
    parser.add_argument('--print-diff', action='store_true', help='print every change with its reason')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error in the input')
    args = parser.parse_args(argv)
    file = find_config(args.config)
    cfg, inherits = load(file)
    try:
        swap = swap_loss(cfg, args.loss)
    except SwapError as error:
        raise UserError(f'{args.config}: {error}') from error
    if args.print_diff or args.out is None:
        print(swap.diff())
    if args.out is not None:
        write(swap, args.config, file, inherits, args.out)
        print(f'written to {args.out}')


if __name__ == '__main__':
    main()
