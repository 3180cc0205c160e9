"""The versions that a stack pins fit each other."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.stack


def test_no_package_has_another_in_a_version_that_it_refuses():
    result = subprocess.run([sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True)
    if 'No module named pip' in result.stderr:
        pytest.skip('pip is not installed here')
    # Packages that are not installed are no conflict: MMEngine and lvis ask for opencv-python, which the headless one
    # replaces, and others for what only parts of them need.
    assert [line for line in result.stdout.splitlines() if 'has requirement' in line] == []
