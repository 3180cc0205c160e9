"""docs/messages.md: every message that it lists is in the code, and no message to users is missing."""

from __future__ import annotations

import re

import pytest
from messages import GAP, ROOT, messages

ROWS = re.findall(r'^\| `(.+?)` \| (.+) \|$', (ROOT / 'docs/messages.md').read_text(), re.MULTILINE)
TEXTS = list(messages())
# Raised for what a user can correct, whatever else a class derives from.
TO_USERS = {
    'UserError', 'SwapError', 'Refusal', 'StackError', 'MissingFileError', 'MissingAnnotationsError',
    'UnknownNameError', 'NoLogsError', 'DataRootError', 'CheckpointError', 'UnreadableCheckpointError',
    'FloatingPointError', 'warning',
}  # fmt: skip


def matches(row: str, text: str) -> bool:
    """Whether a row quotes a text; a gap at the end of a row stands for the rest."""
    return row.removesuffix(f' {GAP}') in text


def test_the_page_has_rows():
    assert len(ROWS) > 100 and len(TEXTS) > 150


@pytest.mark.parametrize('row', [row for row, _ in ROWS])
def test_a_listed_message_is_in_the_code(row):
    assert any(matches(row, message.text) for message in TEXTS)


def test_no_message_is_listed_twice():
    rows = [row for row, _ in ROWS]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize(
    'message', [message for message in TEXTS if message.kind in TO_USERS], ids=lambda message: message.place
)
def test_a_message_to_users_is_listed(message):
    assert any(matches(row, message.text) for row, _ in ROWS), f'docs/messages.md has no row for: {message.text}'
