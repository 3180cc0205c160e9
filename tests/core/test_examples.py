"""The examples in docstrings run, and every loss has one."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from bucketed_losses import functional

PACKAGE = Path(functional.__file__).parent
MODULES = sorted(
    '.'.join(('bucketed_losses', *path.relative_to(PACKAGE).with_suffix('').parts)).removesuffix('.__init__')
    for path in PACKAGE.rglob('*.py')
    if '.mim' not in path.parts and '>>> ' in path.read_text()
)


@pytest.mark.parametrize('name', MODULES)
def test_examples_run(name):
    """Each example imports what it uses, as a reader who pastes it must."""
    if '.mmdet' in name:
        pytest.importorskip('mmdet')
    module = import_module(name)
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}):
        report: list[str] = []
        runner.run(test, out=report.append)
        assert not report, ''.join(report)
    assert runner.tries > 0


@pytest.mark.parametrize('name', [name for name in functional.__all__ if name.endswith('_loss')])
def test_every_loss_has_an_example(name):
    assert '>>> ' in getattr(functional, name).__doc__
