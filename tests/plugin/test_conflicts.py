"""Packages that register classes with the names of ours."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip('mmdet')

from mmengine.config import Config

import bucketed_losses.mmdet  # noqa: F401  (registers CoDETR)
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.config_checks import import_custom_modules

PROJECT = """
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS


@MODELS.register_module()
class CoDETR(DINO):
    pass
"""


def test_the_project_of_mmdetection_was_imported_before(tmp_path):
    (tmp_path / 'codetr.py').write_text(PROJECT)
    result = subprocess.run(
        [sys.executable, '-c', 'import codetr, bucketed_losses.mmdet'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith(
            'bucketed_losses.errors.UserError: CoDETR is already registered by codetr, and this package has a class'
        )
    )


def test_the_project_of_mmdetection_is_imported_after(tmp_path, monkeypatch):
    (tmp_path / 'codetr_of_a_project.py').write_text(PROJECT)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = Config(dict(custom_imports=dict(imports=['codetr_of_a_project'])))
    with pytest.raises(UserError, match=r'already registered.*leave the other module out of custom_imports'):
        import_custom_modules(cfg, 'a.py')
