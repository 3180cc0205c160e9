"""docs/vocabulary.txt: ``make lint`` finds each of its words and phrases, and has something to say instead."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = [line.split('->') for line in (ROOT / 'docs/vocabulary.txt').read_text().splitlines()]


def check(path):
    """The lines that the second run of codespell in ``make lint`` prints, for one file."""
    if find_spec('codespell_lib') is None:
        pytest.skip('needs codespell: make setup SETUP_GROUPS="run test lint"')
    recipe = subprocess.run(['make', '-n', '-o', 'setup', 'lint'], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = (line for line in recipe.stdout.splitlines() if 'docs/vocabulary.txt' in line)
    _, _, arguments = line.partition('/codespell ')
    command = f'{sys.executable} -m codespell_lib {arguments} {path}'
    return subprocess.run(['bash', '-c', command], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def test_every_entry_has_a_replacement_and_no_part_of_a_pattern():
    for phrase, replacement in ENTRIES:
        assert phrase == phrase.lower().strip() and replacement.strip()
        assert not set(phrase) & set("'|()[]{}*+?.\\^$"), phrase
    phrases = [phrase.lstrip('; ') for phrase, _ in ENTRIES]
    assert phrases == sorted(set(phrases)), 'in alphabetical order, each one once'


def test_every_entry_is_found(tmp_path):
    text = tmp_path / 'page.md'
    text.write_text(''.join(f'This is {phrase} an example.\n' for phrase, _ in ENTRIES))
    found = check(text)
    assert len(found) == len(ENTRIES), found
    assert all(replacement.lower() in line.lower() for line, (_, replacement) in zip(found, ENTRIES, strict=True))


def test_good_text_passes(tmp_path):
    text = tmp_path / 'page.md'
    text.write_text('The picture is beside the table. Train in small steps, compared with the loop.\n')
    assert check(text) == []
