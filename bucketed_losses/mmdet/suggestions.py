"""The nearest valid names, for messages about a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """``; did you mean 'A' or 'B'?`` with the known names closest to ``name``, ignoring case; '' if there is none."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
    matches = [by_lower[match] for match in get_close_matches(name.lower(), by_lower, count, cutoff=0.6)]
    return f'; did you mean {" or ".join(map(repr, matches))}?' if matches else ''
