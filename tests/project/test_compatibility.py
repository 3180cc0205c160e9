"""The compatibility page says what the records of the runs say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import report_compatibility
import setup_env

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_of_the_records(pytestconfig):
    if pytestconfig.getoption('--record'):
        pytest.skip('this run makes a record')
    text = (ROOT / 'docs/compatibility.md').read_text()
    records = report_compatibility.read_records()
    assert text == report_compatibility.page(text, records)
    assert {record['stack'] for record in records} == set(setup_env.read_stacks().sections())
    for record in records:
        assert record['failed'] == record['error'] == 0, record['stack']


def test_a_run_records_what_happened(tmp_path):
    """Counts of every kind, by a run of pytest on two processes."""
    tests = tmp_path / 'test_some.py'
    tests.write_text(
        'import pytest\n'
        'def test_passes(): pass\n'
        'def test_fails(): assert False\n'
        '@pytest.fixture\n'
        'def broken(): raise OSError\n'
        'def test_errors(broken): pass\n'
        "def test_skips(): pytest.skip('no reason')\n"
        'def test_passes_too(): pass\n'
    )
    record = tmp_path / 'folder/record.json'
    command = [sys.executable, '-m', 'pytest', '-q', '-n', '2', '-p', 'no:cacheprovider', '-p', 'conftest']
    command += ['-m', 'not slow', '--record', record, '-c', ROOT / 'pyproject.toml', '--rootdir', tmp_path, tests]
    # The option -p imports conftest before pytest reads `pythonpath`.
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests/support"}'}
    subprocess.run(command, cwd=ROOT / 'tests', capture_output=True, env=env)
    got = json.loads(record.read_text())
    assert {key: got[key] for key in ('passed', 'failed', 'error', 'skipped')} == dict(
        passed=2, failed=1, error=1, skipped=1
    )
    assert got['selection'] == 'not slow' and got['versions']['torch'].startswith('2.')
