"""Convert a checkpoint of the paper's own repository (MMDetection 2.25) to this package's detectors.

python tools/convert_published.py CONFIG PUBLISHED.pth OURS.pth [--partial]

CONFIG is the detector that will load it, e.g. configs/atss/atss_r50_fpn_brs_4xb4-1x_coco.py. Every name is accounted
for; unless each finds its place, and each place its name, nothing is written.
"""

from __future__ import annotations

from _convert import run

from bucketed_losses.errors import one_line_errors
from bucketed_losses.mmdet.engine.published_checkpoints import convert_published


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    run("the paper's own repository", convert_published, argv)


if __name__ == '__main__':
    main()
