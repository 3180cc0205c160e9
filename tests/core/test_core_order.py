"""The reading order that :mod:`bucketed_losses.core` states is the order of its imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import bucketed_losses.core

pytestmark = pytest.mark.stack

FOLDER = Path(bucketed_losses.core.__file__).parent
ORDER = re.findall(r'^ *\d+   ``(\w+)``', bucketed_losses.core.__doc__, re.MULTILINE)


def imports_of(path):
    """Names of the modules of this package that a file imports, and of all other packages."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            own |= {alias.name for alias in node.names} if node.module is None else {node.module.split('.')[-1]}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split('.')[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split('.')[0] for alias in node.names}
    return own, others


def test_a_reader_goes_down_once():
    beginnings = {'interpolated_ap': 1.5, 'alrp': 2, 'dr': 2}  # of losses other than RS Loss
    assert set(ORDER[1:]) | set(beginnings) == {path.stem for path in FOLDER.glob('*.py')} - {'__init__'}
    places = {name: place for place, name in enumerate(ORDER)} | beginnings
    for path in [FOLDER.parent / 'functional.py', *FOLDER.glob('*.py')]:
        own, others = imports_of(path)
        assert others <= {'__future__', 'collections', 'contextlib', 'math', 'torch', 'typing'}, path
        for name in own:
            assert places[name] > places[path.stem], f'{path.stem} imports {name}, which a reader has read already'


def test_files_are_short():
    for path in FOLDER.glob('*.py'):
        assert len(path.read_text().splitlines()) <= 250, path
