"""The paper's figures in README.md and configs/README.md, from bucketed_losses/paper/tables.csv.

python tools/benchmarks/report_paper.py

Rewrites the cells that hold them; rows and other cells are written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

from bucketed_losses.paper import published, tables_of

ROOT = Path(__file__).resolve().parents[2]

# Detector in README's table -> configs of its own losses, of RS and of BRS Loss.
README_ROWS: dict[str, tuple[str | None, str | None, str | None]] = {
    'Faster R-CNN': (
        'faster_rcnn/faster-rcnn_r50_fpn_4xb4-1x_coco',
        'faster_rcnn/faster-rcnn_r50_fpn_rs_4xb4-1x_coco',
        'faster_rcnn/faster-rcnn_r50_fpn_brs_4xb4-1x_coco',
    ),
    'Cascade R-CNN': (
        None,
        'cascade_rcnn/cascade-rcnn_r50_fpn_rs_4xb4-1x_coco',
        'cascade_rcnn/cascade-rcnn_r50_fpn_brs_4xb4-1x_coco',
    ),
    'Mask R-CNN': (
        None,
        'mask_rcnn/mask-rcnn_r50_fpn_rs_4xb4-1x_coco',
        'mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco',
    ),
    'RetinaNet': (None, None, 'retinanet/retinanet_r50_fpn_brs_4xb4-1x_coco'),
    'ATSS': (
        'atss/atss_r50_fpn_4xb4-1x_coco',
        'atss/atss_r50_fpn_rs_4xb4-1x_coco',
        'atss/atss_r50_fpn_brs_4xb4-1x_coco',
    ),
    'PAA': (None, 'paa/paa_r50_fpn_rs_4xb4-1x_coco', 'paa/paa_r50_fpn_brs_4xb4-1x_coco'),
    'Co-DETR': ('co_detr/co-deformable-detr_r50_8xb2-12e_coco', None, 'brs_detr/brs-detr_r50_8xb2-12e_coco'),
}


def ap_cell(config: str) -> str:
    """The paper's AP of a config: with its kind for detectors that have masks, '-' where the paper has none."""
    figure = published(config)
    if figure is None:
        return '-'
    return f'{figure.value} ({figure.metric.split()[0]})' if figure.detector == 'Mask R-CNN' else figure.value


def seconds_cell(config: str) -> str:
    """The paper's seconds per iteration of a config, or '-'."""
    figure = published(config, 's/iter')
    return '-' if figure is None else figure.value


def row_cell(config: str) -> str | None:
    """The row of the paper that a config trains, such as 'Table 1, 7: ATSS, R-50, RS'; None if it trains none."""
    figure = published(config) or published(config, 's/iter')
    if figure is None:
        return None
    tables = tables_of(config)
    numbers = ', '.join(table.removeprefix('Table ') for table in tables)
    place = f'Table {numbers}' if all(table.startswith('Table ') for table in tables) else ', '.join(tables)
    parts = [figure.detector, figure.backbone, figure.loss]
    if figure.dataset != 'COCO':
        parts.insert(1, figure.dataset)
    if figure.detector == 'BRS-DETR':
        parts.pop()
    if figure.epochs != '12':
        parts.append(f'{figure.epochs} epochs')
    return f'{place}: {", ".join(parts)}'


def configs_page(text: str) -> str:
    """The list of configs with the paper's cells made anew."""

    def cells(match: re.Match) -> str:
        config = match['target'].removesuffix('.py')
        row = row_cell(config) or match['row']
        return f'{match["link"]} | {row} | {ap_cell(config)} | {seconds_cell(config)} | '

    row = r'^(?P<link>\| \[\S+\]\((?P<target>\S+)\)) \| (?P<row>[^|]+) \| [^|]+ \| [^|]+ \| '
    return re.sub(row, cells, text, flags=re.MULTILINE)


def readme(text: str) -> str:
    """README with the paper's columns in its table of detectors made anew."""
    for detector, configs in README_ROWS.items():
        values = [figure.value if config and (figure := published(config)) else '' for config in configs]
        cells = ''.join(f' {value} |' if value else ' |' for value in values)
        row = rf'^(\| {detector}(?:, [^|]+)? \|)[^|]*\|[^|]*\|[^|]*\|'
        text = re.sub(row, rf'\g<1>{cells}', text, flags=re.MULTILINE)
    return text


PAGES = {'README.md': readme, 'configs/README.md': configs_page}


def main() -> None:
    for name, page in PAGES.items():
        path = ROOT / name
        path.write_text(page(path.read_text()))
        print(f'{name} is up to date')


if __name__ == '__main__':
    main()
