"""The LVIS and Cityscapes toolkits get the names that numpy dropped, and nobody else does."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('mmdet')

from bucketed_losses.mmdet.engine import mend_evaluators, numpy_names


@pytest.fixture
def toolkit(monkeypatch):
    """A module that uses numpy as a toolkit does, and names that numpy lacks."""
    module = SimpleNamespace(np=np)
    monkeypatch.setitem(sys.modules, 'json.toolkit', module)
    monkeypatch.setattr(numpy_names, '_MISSING', {'json.toolkit': {'gone': float, 'isin': None}})
    return module


def test_missing_names_are_added_for_that_module_alone(toolkit):
    mend_evaluators()
    assert toolkit.np.gone is float
    assert toolkit.np.isin is np.isin, 'names that numpy has stay its own'
    assert toolkit.np.float64 is np.float64
    assert not hasattr(np, 'gone')
    mended = toolkit.np
    mend_evaluators()
    assert toolkit.np is mended


def test_toolkits_that_are_not_there_are_left_alone(monkeypatch):
    names = {'no_such_toolkit.eval': {'gone': float}, 'json.no_such_part': {'gone': float}}
    monkeypatch.setattr(numpy_names, '_MISSING', names)
    mend_evaluators()
    assert 'no_such_toolkit' not in sys.modules
