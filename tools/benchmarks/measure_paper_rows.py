"""Seconds per training iteration of the rows of the paper's Tables 1 and 2 and Sec. 6.2, with the small configs.

python tools/benchmarks/measure_paper_rows.py [--iterations 7]

For each row with ResNet-50 on COCO that the paper has timed, the small config of the same detector stands in, with the
losses of the row. The rows take turns, iteration by iteration. For exact losses, the loop over positives of
published_algorithms/ is timed on the same inputs: with it in place of our loss, an iteration takes as long as the
column *with the loop* says. Writes docs/figures/paper_rows.csv and the table of docs/results.md. Needs the data of the
small configs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import processor
from mmengine.config import Config
from page_blocks import write_block
from tables import markdown, read_csv, write_csv

from bucketed_losses.errors import one_line_errors
from bucketed_losses.mmdet.swap import LOSSES
from bucketed_losses.paper import figures, published
from bucketed_losses.study.times import measure_times

ROOT = Path(__file__).resolve().parents[2]
CSV, PAGE, BLOCK = ROOT / 'docs/figures/paper_rows.csv', ROOT / 'docs/results.md', 'paper-rows'
SMALL = {
    'faster_rcnn': 'bccd/faster-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd',
    'cascade_rcnn': 'bccd/cascade-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd',
    'atss': 'bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd',
    'paa': 'bccd/paa_efficientnet-lite0_fpn_brs_1xb8-12e_bccd',
    'mask_rcnn': 'shapes/mask-rcnn_efficientnet-lite0_fpn_brs-dice_1xb8-12e_shapes',
    'brs_detr': 'bccd/co-deformable-detr_efficientnet-lite0_brs_1xb4-12e_bccd',
}
"""The folder of a row's config -> the small config of its detector with BRS Loss."""
TABLES = ('Table 1', 'Table 2', 'Sec. 6.2')


def timed_rows(folders: list[str]) -> dict[str, list[tuple[str, str]]]:
    """For each folder, the configs (with ResNet-50 on COCO) and losses that the paper has timed."""
    found: dict[str, list[tuple[str, str]]] = {folder: [] for folder in folders}
    for figure in figures(metric='s/iter', source='paper', dataset='COCO', backbone='R-50'):
        folder = figure.config.split('/')[0]
        row = (figure.config, figure.loss)
        if figure.table in TABLES and figure.loss.lower() in LOSSES and folder in found and row not in found[folder]:
            found[folder].append(row)
    return found


def with_loss(value: Any, loss: str) -> Any:
    """A config in which every BRS Loss is another ranking loss."""
    if isinstance(value, dict):
        return {name: with_loss(part, loss) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(with_loss(part, loss) for part in value)
    return LOSSES[loss.lower()] if value == LOSSES['brs'] else value


def measure(timed: dict[str, list[tuple[str, str]]], iterations: int) -> list[dict[str, Any]]:
    """The times of all rows, which take turns, as rows of the CSV."""
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in timed.items():
            cfg = Config.fromfile(ROOT / f'configs/{SMALL[name]}.py')
            for config, loss in rows:
                changed = Config(dict(cfg, model=with_loss(cfg.model.to_dict(), loss)))
                files[config] = str(Path(folder) / f'{Path(config).name}.py')
                Path(files[config]).write_text(changed.pretty_text)
        times = measure_times(list(files.values()), iterations, with_loop=True)
    lines = []
    for name, rows in timed.items():
        for config, loss in rows:
            measured = times[files[config]]
            ours, in_losses, in_loops = (
                measured[f'seconds_{part}'] for part in ('per_iteration', 'in_losses', 'by_loops')
            )
            exact = loss in ('AP', 'RS')
            lines.append(
                dict(
                    config=config, loss=loss, small_config=SMALL[name],
                    seconds=f'{ours:.3f}', milliseconds_in_losses=f'{1000 * in_losses:.1f}',
                    seconds_with_loop=f'{ours - in_losses + in_loops:.3f}' if exact else '',
                    milliseconds_in_loops=f'{1000 * in_loops:.1f}' if exact else '',
                    machine=f'{processor(device)}, torch {torch.__version__.partition("+")[0]}',
                )
            )  # fmt: skip
    return lines


def table(rows: list[dict[str, str]]) -> str:
    """The rows of the CSV, with the times of the paper, as Markdown."""
    lines = []
    for row in rows:
        paper = published(row['config'], 's/iter')
        assert paper is not None
        data = row['small_config'].split('/')[0].replace('bccd', 'BCCD')
        loop = f'{float(row["seconds_with_loop"]):.2f}' if row['seconds_with_loop'] else ''
        lines.append(
            [
                paper.table, paper.detector, row['loss'], paper.value, data, f'{float(row["seconds"]):.2f}',
                row['milliseconds_in_losses'], loop, row['milliseconds_in_loops'],
            ]
        )  # fmt: skip
    head = [
        'paper', 'detector', 'loss', "the paper's s/iter", 'data here', 's/iter', 'ms in the losses',
        's/iter with the loop', 'ms in the loop',
    ]  # fmt: skip
    return f'Machine: {rows[0]["machine"]}.\n\n{markdown(head, lines)}'


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=7, help='measured iterations; 2 more warm up')
    args = parser.parse_args(argv)
    write_csv(CSV, measure(timed_rows(list(SMALL)), args.iterations))
    write_block(PAGE, BLOCK, table(read_csv(CSV)))
    print(table(read_csv(CSV)))


if __name__ == '__main__':
    main()
