"""The figure of what measure.py measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucketed_losses.figure_style import figure_style, label_lines, looks_of, new_figure, save


def draw_times(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time over logits, from rows of ``measure.COLUMNS`` or of their CSV file; needs matplotlib."""
    measured = [row for row in rows if row.get('milliseconds') and ',' not in row['loss']]  # no other ways of one loss
    looks = looks_of(dict.fromkeys(row['loss'] for row in measured))
    with figure_style():
        figure, ((axis,),) = new_figure()
        ends = []
        for loss, look in looks.items():
            # Of two numbers of positives, the larger one, which is measured later.
            times = {int(row['logits']): float(row['milliseconds']) for row in measured if row['loss'] == loss}
            axis.plot(list(times), list(times.values()), marker='o', markersize=4, **look.line)
            ends.append(list(times.items())[-1])
        axis.set(xscale='log', yscale='log', xlabel='number of logits', ylabel='time of forward and backward (ms)')
        label_lines(axis, list(looks), list(looks.values()), ends)
        save(figure, path)
