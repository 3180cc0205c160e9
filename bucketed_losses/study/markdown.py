"""Parts of pages in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown. If a line begins with the same cell as the one above it, the cell is left empty."""
    text = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    above = None
    for first, *others in lines:
        text.append('| ' + ' | '.join(['' if first == above else first, *others]) + ' |')
        above = first
    return '\n'.join(text)


def collapsed(summary: str, content: str) -> str:
    """A part of the page that a click opens, on a site and on a code host."""
    return f'<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>'
