"""tools/setup_env.sh: what it does again, what it does not, and what a failed build leaves behind.

A stand-in for the Python interpreter records what it is asked to do, so that nothing is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import setup_env

ROOT = Path(__file__).resolve().parents[2]

STAND_IN = """#!/usr/bin/env bash
# Answers what setup_env.py asks of an interpreter, and logs every call of pip and of the compiler.
echo "$*" >> calls.log
case "$*" in
    *'sys.version_info < '*) exit 1 ;;
    *'sys.version_info'*) echo "${FAKE_VERSION:-3.11}" ;;
    '-m venv'*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *--key) echo "$2-$(sed -n 's/^torch==/torch/p' requirements/current/torch.txt)" ;;
    *--check) [ -e broken ] && { rm broken; echo 'ImportError: undefined symbol' >&2; exit 1; }; exit 0 ;;
    *build_mmcv.py*)
        echo 'compiled 1 of 2 files after 1 s'
        [ -e fail ] && { echo 'mmcv==2.1.0 could not be built. It needs a C++ compiler (g++)'; exit 1; }
        if [ -e hang ]; then touch hanging; sleep 60; fi
        echo 'compiled 2 of 2 files after 2 s'
        args=" $* "; folder=${args##* --out }; folder=${folder%% *}
        mkdir -p "$folder" && touch "$folder/mmcv-2.1.0-cp311.whl" ;;
esac
exit 0
"""


@pytest.fixture
def project(tmp_path):
    """A copy of what the script reads, with the stand-in as its Python."""
    folder = tmp_path / 'project'
    (folder / 'tools').mkdir(parents=True)
    for name in ('tools/setup_env.sh', 'tools/setup_env.py', 'pyproject.toml', 'setup.py'):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / 'requirements', folder / 'requirements')
    for name in ('fake/python', 'python3.12'):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    return folder


def start(project, *arguments, **environment):
    variables = {
        'PATH': f'{project}:/usr/bin:/bin',
        'PYTHON': str(project / 'fake/python'),
        'XDG_CACHE_HOME': str(project / 'cache'),
        'HOME': str(project),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, 'tools/setup_env.py', *arguments],
        cwd=project,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def setup(project, *arguments, **environment):
    """Run the script; its exit status, output and the calls that install or build something."""
    (project / 'calls.log').unlink(missing_ok=True)
    process = start(project, *arguments, **environment)
    output, _ = process.communicate(timeout=60)
    log = project / 'calls.log'
    calls = log.read_text().splitlines() if log.exists() else []
    return process.returncode, output, [call for call in calls if ' install ' in call or '--out' in call]


def builds(calls):
    return [call for call in calls if '--out' in call]


def change_pin(project, file, old, new):
    path = project / 'requirements' / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def wheels(project):
    return sorted(path.parent.name for path in (project / 'cache').rglob('*.whl'))


def test_second_call_does_nothing(project):
    status, output, calls = setup(project)
    assert status == 0, output
    assert len(builds(calls)) == 1 and 'mmcv: 2 of 2 files compiled' in output and 'ready' in output
    assert setup(project) == (0, '', [])


def test_groups_are_installed_when_they_are_asked_for(project):
    _, _, calls = setup(project)
    assert not any('lint.txt' in call or 'docs.txt' in call for call in calls)
    status, _, calls = setup(project, '--groups', 'run', 'lint')
    assert status == 0 and len(calls) == 1 and 'current/lint.txt' in calls[0]
    assert setup(project) == (0, '', [])


def test_a_changed_pin_does_not_build_mmcv_again(project):
    setup(project)
    change_pin(project, 'current/run.txt', 'mmdet==', 'mmdet==99.')
    status, _, calls = setup(project)
    assert status == 0 and len(calls) == 1 and 'current/run.txt' in calls[0]


def test_other_versions_of_single_packages(project):
    setup(project)
    status, _, calls = setup(project, PINS='mmengine==0.10.4')
    assert status == 0 and [call.split()[-1] for call in calls][-1] == 'mmengine==0.10.4' and not builds(calls)
    assert setup(project, PINS='mmengine==0.10.4') == (0, '', [])
    _, _, calls = setup(project)
    assert len(calls) == 1 and 'current/run.txt' in calls[0]


def test_another_torch_builds_mmcv_again_and_the_old_wheel_stays(project):
    setup(project)
    change_pin(project, 'current/torch.txt', 'torch==2.13.0', 'torch==2.99.0')
    status, _, calls = setup(project)
    assert status == 0 and len(builds(calls)) == 1
    assert wheels(project) == ['mmcv==2.1.0-torch2.13.0', 'mmcv==2.1.0-torch2.99.0']
    change_pin(project, 'current/torch.txt', '2.99.0', '2.13.0')
    status, _, calls = setup(project)
    assert status == 0 and not builds(calls) and any('.whl' in call for call in calls)


def test_a_wheel_of_the_user_is_taken(project):
    wheel = project / 'mmcv-2.1.0-mine.whl'
    status, output, _ = setup(project, MMCV_WHEEL=str(wheel))
    assert status != 0 and f'MMCV_WHEEL={wheel} is not a file' in output
    wheel.touch()
    status, output, calls = setup(project, MMCV_WHEEL=str(wheel))
    assert status == 0, output
    assert not builds(calls) and any(str(wheel) in call for call in calls)
    assert setup(project) == (0, '', [])
    assert setup(project, MMCV_WHEEL=str(wheel)) == (0, '', [])


def test_an_mmcv_in_the_environment_is_taken_if_it_works(project):
    setup(project)
    metadata = project / '.venv/lib/python3.11/site-packages/mmcv-2.1.0.dist-info'
    metadata.mkdir(parents=True)
    done = project / '.venv/done.json'
    for works in (True, False):
        done.write_text(json.dumps({k: v for k, v in json.loads(done.read_text()).items() if k != 'mmcv'}))
        if not works:
            (project / 'broken').touch()
        status, output, calls = setup(project)
        assert status == 0, output
        assert any('.whl' in call for call in calls) != works
        assert setup(project) == (0, '', [])


def test_an_environment_of_the_user_is_used(project):
    python = project / '.venv/bin/python'
    python.parent.mkdir(parents=True)
    shutil.copy(project / 'fake/python', python)
    (project / '.venv/mine').touch()
    assert setup(project)[0] == 0 and (project / '.venv/mine').exists()


@pytest.mark.parametrize(
    ('version', 'words'),
    [
        ('3.9', 'has Python 3.9, not Python 3.11, so it was not replaced. Move it to another place, or remove it.'),
        ('3.12', 'or set PYTHON='),
        (None, 'has no Python that runs'),
    ],
)
def test_an_environment_of_the_user_is_not_removed(version, words, project):
    (project / '.venv/bin').mkdir(parents=True)
    if version:
        (project / '.venv/bin/python').write_text(f'#!/bin/sh\necho {version}\n')
        (project / '.venv/bin/python').chmod(0o755)
    before = sorted(project.rglob('.venv/**/*'))
    status, output, calls = setup(project)
    assert status != 0 and 'Traceback' not in output and not calls
    assert f'{project}/.venv was not made by this script' in output and words in output
    assert sorted(project.rglob('.venv/**/*')) == before
    # An empty folder, and one in which this script was interrupted, are its own.
    shutil.rmtree(project / '.venv/bin')
    assert setup(project)[0] == 0
    (project / '.venv/done.json').unlink()
    (project / '.venv/bin/python').unlink()
    status, output, _ = setup(project)
    assert status == 0, output


def test_a_failed_build_shows_why_and_is_not_taken_for_done(project):
    (project / 'fail').touch()
    status, output, _ = setup(project)
    assert status != 0 and 'C++ compiler' in output and 'build-mmcv.log' in output and 'Traceback' not in output
    assert wheels(project) == []
    (project / 'fail').unlink()
    status, _, calls = setup(project)
    assert status == 0 and len(builds(calls)) == 1


def test_operators_that_do_not_work_are_compiled_one_by_one(project):
    (project / 'broken').touch()
    status, output, calls = setup(project)
    assert status == 0, output
    assert ['--no-join' in call for call in builds(calls)] == [False, True]


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
    assert wheels(project) == []
    (project / 'hang').unlink()
    status, _, calls = setup(project)
    assert status == 0 and len(builds(calls)) == 1


def test_another_python_is_refused(project):
    status, output, calls = setup(project, FAKE_VERSION='3.9')
    assert status != 0 and 'is Python 3.9; this stack needs Python 3.13, 3.12, 3.11 or 3.10' in output and calls == []


def test_an_environment_keeps_its_python(project):
    setup(project, FAKE_VERSION='3.12')
    assert setup(project, PYTHON='', FAKE_VERSION='3.12') == (0, '', [])


def test_a_python_that_is_not_on_the_path_is_found_again(project):
    """As on clusters, where a module brings it; the environment links to it."""
    (project / 'modules').mkdir()
    elsewhere = project / 'modules/python3.11'
    shutil.move(project / 'fake/python', elsewhere)
    (project / 'python3.12').unlink()
    assert setup(project, PYTHON=str(elsewhere))[0] == 0
    python = project / '.venv/bin/python'
    python.unlink()
    python.symlink_to(elsewhere)  # as venv makes it
    assert setup(project, PYTHON='') == (0, '', [])
    status, output, _ = setup(project, '--groups', 'run', 'test', PYTHON='')
    assert status == 0 and 'with Python 3.11' in output


def test_unknown_stacks_are_named(project):
    status, output, _ = setup(project, '--stack', 'openmmlabs')
    assert status != 0 and "no stack 'openmmlabs'" in output and 'onedl' in output


def test_stacks_have_environments_of_their_own(project):
    status, output, calls = setup(project, '--stack', 'torch-oldest', '--groups', 'run', 'test', FAKE_VERSION='3.10')
    assert status == 0, output
    assert not builds(calls) and not any('run.txt' in call for call in calls)
    assert (project / '.venv-torch-oldest').is_dir() and not (project / '.venv').exists()


def stacks():
    parser = setup_env.read_stacks()
    return {name: parser[name] for name in parser.sections()}


@pytest.mark.parametrize('name', stacks())
def test_every_stack_is_pinned(name):
    folders = [value for key, value in stacks()[name].items() if key.startswith('pins')]
    for folder in folders:
        files = {path.stem: path.read_text().splitlines() for path in (ROOT / 'requirements' / folder).glob('*.txt')}
        assert {'torch', 'test'} <= set(files)
        lines = [line for file in files.values() for line in file if line and not line.startswith('#')]
        assert all(re.fullmatch(r'[\w.-]+==[\w.]+( *;.*)?', line) for line in lines)
        without_marker = [line.partition('==')[0].lower() for line in lines if ';' not in line]
        assert len(without_marker) == len(set(without_marker)), 'a package is pinned twice'


def test_what_is_installed_is_what_is_pinned():
    """The tests run with the versions of the stack whose environment they run in."""
    from importlib.metadata import version

    from packaging.requirements import Requirement

    name = Path(sys.prefix).name.removeprefix('.venv').removeprefix('-') or 'current'
    if Path(sys.prefix).parent != ROOT or name not in stacks():
        pytest.skip('not run from an environment of make setup')
    stack = stacks()[name]
    pins = stack.get(f'pins-{sys.version_info[0]}.{sys.version_info[1]}', stack['pins'])
    files = [ROOT / f'requirements/{pins}/{group}.txt' for group in ('torch', 'run', 'test')]
    lines = [line for file in files if file.is_file() for line in file.read_text().splitlines()]
    lines += [stack['mmcv']] if 'mmcv' in stack else []
    others = {Requirement(pin).name: Requirement(pin) for pin in os.environ.get('PINS', '').split()}
    requirements = [Requirement(line) for line in lines if line and not line.startswith('#')]
    requirements = [others.get(requirement.name, requirement) for requirement in requirements]
    assert len(requirements) > 10
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(version(requirement.name).split('+')[0]), requirement
