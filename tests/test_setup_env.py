"""tools/setup_env.sh: what it does again, what it does not, and what a failed build leaves behind.

A stand-in for the Python interpreter records what it is asked to do, so that nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

STAND_IN = """#!/usr/bin/env bash
# Answers what setup_env.sh asks of an interpreter, and logs every pip call.
case "$*" in
    *'sys.version_info'*) echo "${FAKE_VERSION:-3.11}" ;;
    '-m venv'*) mkdir -p .venv/bin; rm -f .venv/ready .venv/mmcv; cp "$0" .venv/bin/python ;;
    '-') echo "torch$(grep -v '^#' requirements/torch.txt | cut -d= -f3)-py311-test" ;;
    *' wheel '*)
        echo "build mmcv" >> pip.log
        echo '[1/2] c++ first.o'
        [ -e fail ] && { echo 'g++: error'; exit 1; }
        if [ -e hang ]; then touch hanging; sleep 60; fi
        echo '[2/2] c++ second.o'
        args=" $* "; folder=${args##* -w }; folder=${folder%% *}
        mkdir -p "$folder" && touch "$folder/mmcv-2.1.0-py311.whl" ;;
    '-m pip'*) echo "pip ${*: -1}" >> pip.log ;;
    '-c'*) ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A copy of what the script reads, with the stand-in as its Python."""
    folder = tmp_path / 'project'
    (folder / 'tools').mkdir(parents=True)
    shutil.copy(ROOT / 'tools/setup_env.sh', folder / 'tools')
    shutil.copytree(ROOT / 'requirements', folder / 'requirements')
    shutil.copy(ROOT / 'pyproject.toml', folder)
    (folder / 'python').write_text(STAND_IN)
    (folder / 'python').chmod(0o755)
    return folder


def start(project, **environment):
    variables = {
        'PATH': '/usr/bin:/bin',
        'PYTHON': str(project / 'python'),
        'XDG_CACHE_HOME': str(project / 'cache'),
        **environment,
    }
    return subprocess.Popen(
        ['bash', 'tools/setup_env.sh'],
        cwd=project,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def setup(project, **environment):
    """Run the script; its exit status, output and the pip calls it made."""
    (project / 'pip.log').unlink(missing_ok=True)
    process = start(project, **environment)
    output, _ = process.communicate(timeout=60)
    log = project / 'pip.log'
    return process.returncode, output, log.read_text().splitlines() if log.exists() else []


def change_pin(project, file, old, new):
    path = project / 'requirements' / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def wheels(project):
    return sorted(path.parent.name for path in (project / 'cache').rglob('*.whl'))


def test_second_call_does_nothing(project):
    status, output, calls = setup(project)
    assert status == 0, output
    assert 'build mmcv' in calls and 'compiling [2/2]' in output
    assert setup(project) == (0, '', [])


def test_a_changed_pin_does_not_build_mmcv_again(project):
    setup(project)
    change_pin(project, 'lock.txt', 'six==', 'six==99.')
    status, _, calls = setup(project)
    assert status == 0 and calls and 'build mmcv' not in calls
    assert not any('mmcv' in call for call in calls)


def test_another_torch_builds_mmcv_again_and_the_old_wheel_stays(project):
    setup(project)
    change_pin(project, 'torch.txt', '2.13.0', '2.99.0')
    status, _, calls = setup(project)
    assert status == 0 and 'build mmcv' in calls
    assert wheels(project) == ['mmcv==2.1.0-torch2.13.0-py311-test', 'mmcv==2.1.0-torch2.99.0-py311-test']
    change_pin(project, 'torch.txt', '2.99.0', '2.13.0')
    status, _, calls = setup(project)
    assert status == 0 and 'build mmcv' not in calls and any(call.endswith('.whl') for call in calls)


def test_a_failed_build_shows_its_log_and_is_not_taken_for_done(project):
    (project / 'fail').touch()
    status, output, _ = setup(project)
    assert status != 0 and 'g++: error' in output and 'C++ compiler' in output
    assert not (project / '.venv/ready').exists() and wheels(project) == []
    (project / 'fail').unlink()
    status, _, calls = setup(project)
    assert status == 0 and 'build mmcv' in calls


def test_a_killed_build_is_not_taken_for_done(project):
    (project / 'hang').touch()
    process = start(project)
    deadline = time.monotonic() + 30
    while not (project / 'hanging').exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (project / '.venv/ready').exists() and wheels(project) == []
    (project / 'hang').unlink()
    status, _, calls = setup(project)
    assert status == 0 and 'build mmcv' in calls


def test_another_python_is_refused(project):
    status, output, calls = setup(project, FAKE_VERSION='3.9')
    assert status != 0 and 'Python 3.11' in output and '3.9' in output and calls == []


def test_lock_holds_what_is_installed():
    """The tests run with the versions that the lock names."""
    from importlib.metadata import version

    if not (ROOT / '.venv/ready').exists() or Path(sys.prefix) != ROOT / '.venv':
        pytest.skip('not run from the .venv of make setup')
    lines = [
        line
        for file in ('build', 'torch', 'mmcv', 'lock')
        for line in (ROOT / f'requirements/{file}.txt').read_text().splitlines()
        if line and not line.startswith('#')
    ]
    assert len(lines) > 40
    for line in lines:
        name, _, pinned = line.partition('==')
        assert version(name).split('+')[0] == pinned
