"""Metadata: pyproject.toml, CITATION.cff, CHANGELOG.md and the version agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bucketed_losses import __version__

yaml = pytest.importorskip('yaml')

ROOT = Path(__file__).resolve().parents[2]
CITATION = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
PYPROJECT = (ROOT / 'pyproject.toml').read_text()
CHANGELOG = (ROOT / 'CHANGELOG.md').read_text()
KINDS = ['Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security']


def test_the_citation_is_of_this_version():
    """The keys that the Citation File Format 1.2.0 requires, and those that a citation is made of."""
    assert {'cff-version', 'message', 'title', 'authors'} <= set(CITATION)
    assert CITATION['cff-version'] == '1.2.0' and CITATION['type'] == 'software'
    assert CITATION['version'] == __version__
    assert f'license = "{CITATION["license"]}"' in PYPROJECT
    assert f'authors = [{{ name = "{CITATION["authors"][0]["name"]}" }}]' in PYPROJECT


def test_the_citation_prefers_the_paper():
    paper = CITATION['preferred-citation']
    assert paper['type'] == 'conference-paper' and paper['year'] == 2024
    assert paper['title'] == 'Bucketed Ranking-based Losses for Efficient Training of Object Detectors'
    assert [author['family-names'] for author in paper['authors']] == [
        *('Yavuz', 'Cam', 'Dogan', 'Oksuz', 'Akbas', 'Kalkan'),
    ]
    assert all(author['given-names'] for author in paper['authors'])
    assert f'Paper = "{paper["url"]}"' in PYPROJECT and 'ECCV' in paper['collection-title']


def test_the_changelog_is_sorted_by_kind():
    """As keepachangelog.com has it: versions from new to old, and the kinds of changes in one order."""
    versions = re.findall(r'^## (.+)$', CHANGELOG, re.MULTILINE)
    assert versions[0] == 'Unreleased' or versions[0].startswith(__version__)
    released = [re.fullmatch(r'(\d+)\.(\d+)\.(\d+)(?: \(\d{4}-\d{2}-\d{2}\))?', name) for name in versions[1:]]
    assert all(released), versions
    numbers = [tuple(map(int, match.groups())) for match in released]
    assert numbers == sorted(numbers, reverse=True)
    for section in re.split(r'^## .*\n', CHANGELOG, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r'^### (.+)$', section, re.MULTILINE)
        assert set(kinds) <= set(KINDS) and kinds == sorted(kinds, key=KINDS.index)
        entries = re.split(r'^### .*\n', section, flags=re.MULTILINE)
        assert all('\n* ' in f'\n{entry}' for entry in entries[1:])
        assert '\n* ' not in f'\n{entries[0]}', 'every entry is under a kind'
