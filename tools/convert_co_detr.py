"""Convert a Co-Deformable-DETR checkpoint of the original repository to this package's names.

python tools/convert_co_detr.py CONFIG ORIGINAL.pth OURS.pth [--partial]

CONFIG is the detector that will load it, e.g. configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py. Every name is
accounted for; unless each finds its place, and each place its name, nothing is written.
"""

from __future__ import annotations

from _convert import run

from bucketed_losses.errors import one_line_errors
from bucketed_losses.mmdet.engine.co_detr_checkpoints import convert_co_detr


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    run("the original Co-Deformable-DETR or of BRS-DETR's fork", convert_co_detr, argv)


if __name__ == '__main__':
    main()
