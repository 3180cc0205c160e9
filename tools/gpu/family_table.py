"""The table of what family_steps.py measures."""

from __future__ import annotations

from collections.abc import Iterable

COLUMNS = ('detector', 'ms, own loss', 'ms, BRS Loss', 'ratio', 'MB, own loss', 'MB, BRS Loss')


def family_table(rows: Iterable[dict[str, str]]) -> list[list[str]]:
    """Rows of :data:`COLUMNS` from those of families.csv, the ratios of the times among them."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row['detector'], {})[row['trained_with']] = row
    lines = []
    for detector, by_loss in found.items():
        times, peaks = (
            [by_loss.get(loss, {}).get(column, '') for loss in ('stock', 'BRS')]
            for column in ('milliseconds', 'peak_megabytes')
        )
        ratio = f'{float(times[1]) / float(times[0]):.2f}' if all(times) else ''
        lines.append([detector, *times, ratio, *peaks])
    return lines
