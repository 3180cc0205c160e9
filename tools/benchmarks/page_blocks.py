"""The generated parts of a page in Markdown: each stands between the comments ``NAME`` and ``end of NAME``."""

from __future__ import annotations

from pathlib import Path


def markers(name: str) -> tuple[str, str]:
    """The comments before and after a generated part."""
    return f'<!-- {name} -->', f'<!-- end of {name} -->'


def block_of(page: Path, name: str) -> str:
    """What stands between the comments.

    Raises:
        ValueError: The page does not have each of them exactly once.
    """
    begin, end = markers(name)
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f'{page} must have {begin} and {end} once each, got {text.count(begin)} and {text.count(end)}')
    return text.split(begin)[1].split(end)[0].strip()


def write_block(page: Path, name: str, content: str) -> None:
    """Replace what stands between the comments; errors as for :func:`block_of`."""
    block_of(page, name)
    begin, end = markers(name)
    before, rest = page.read_text().split(begin)
    page.write_text(f'{before}{begin}\n{content}\n{end}{rest.split(end)[1]}')
