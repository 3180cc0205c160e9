"""tools/release.py: what it refuses, what it sets, and a real release in a clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import release

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = '# Changelog\n\n## Unreleased\n\n### Added\n\n* New.\n\n## 0.1.0\n\n### Added\n\n* Old.\n'


def git(folder, *arguments):
    identity = ['-c', 'user.name=Somebody', '-c', 'user.email=somebody@example.org']
    return subprocess.run(['git', *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path):
    """A repository with the files that state a version."""
    folder = tmp_path / 'project'
    (folder / 'bucketed_losses').mkdir(parents=True)
    (folder / 'bucketed_losses/version.py').write_text("__version__ = '0.1.0'\n")
    (folder / 'CITATION.cff').write_text('title: x\nversion: 0.1.0\nlicense: Apache-2.0\n')
    (folder / 'README.md').write_text('@software{x,\n  version = {0.1.0},\n  year = {2026}\n}\n')
    (folder / 'CHANGELOG.md').write_text(CHANGELOG)
    git(folder, 'init', '-q')
    git(folder, 'add', '.')
    git(folder, 'commit', '-qm', 'Start')
    return folder


@pytest.fixture
def calls(monkeypatch):
    """Stands in for building and installing; records what is tried."""
    found = []

    def build(root, out):
        out.mkdir(parents=True)
        (out / 'x.whl').touch()
        return [out / 'x.whl']

    monkeypatch.setattr(release, 'build', build)
    monkeypatch.setattr(
        release, 'try_wheel', lambda root, wheel, version, with_torch: found.append((wheel, with_torch))
    )
    return found


def commit_prepared(project):
    release.main(['0.2.0', '--prepare'], project)
    (project / '.gitignore').write_text('dist/\n')
    git(project, 'add', '.')
    git(project, 'commit', '-qm', 'Version 0.2.0')


def test_prepare_sets_the_version_everywhere(project):
    release.main(['0.2.0', '--prepare'], project)
    assert set(release.versions(project).values()) == {'0.2.0'}
    assert '\n## 0.2.0 (2' in (project / 'CHANGELOG.md').read_text()
    assert 'version: 0.2.0\ndate-released: 2' in (project / 'CITATION.cff').read_text()
    assert '\n  version = {0.2.0},\n' in (project / 'README.md').read_text()
    with pytest.raises(SystemExit, match='no section "## Unreleased"'):
        release.main(['0.3.0', '--prepare'], project)


def test_the_patterns_find_the_versions_of_this_project():
    assert all(release.versions(ROOT).values())


@pytest.mark.parametrize('version', ['0.2', 'v0.2.0', 'next'])
def test_names_that_are_no_versions(version, project):
    with pytest.raises(SystemExit, match=r'is not a version\. Write MAJOR\.MINOR\.PATCH'):
        release.main([version], project)


def test_versions_that_differ_are_named(project, calls):
    others = r'CITATION\.cff \(0\.1\.0\), README\.md \(0\.1\.0\), CHANGELOG\.md \(Unreleased\)'
    with pytest.raises(SystemExit, match=rf'version\.py \(0\.1\.0\), {others}'):
        release.main(['0.2.0'], project)
    assert calls == []


def test_changes_that_are_not_committed(project, calls):
    commit_prepared(project)
    (project / 'new.py').touch()
    with pytest.raises(SystemExit, match=r'not clean(.|\n)*new\.py'):
        release.main(['0.2.0', '--tag'], project)
    assert calls == [] and git(project, 'tag') == ''


def test_an_empty_section(project, calls):
    commit_prepared(project)
    changelog = project / 'CHANGELOG.md'
    changelog.write_text(changelog.read_text().replace('### Added\n\n* New.\n\n', ''))
    git(project, 'commit', '-qam', 'Empty')
    with pytest.raises(SystemExit, match=r'no section on 0\.2\.0, or the section is empty'):
        release.main(['0.2.0'], project)


def test_tag_and_notes(project, calls):
    commit_prepared(project)
    release.main(['0.2.0'], project)
    assert (project / 'dist/0.2.0/notes.md').read_text() == '### Added\n\n* New.\n'
    assert git(project, 'tag') == '' and calls == [(project / 'dist/0.2.0/x.whl', True)]
    release.main(['0.2.0', '--tag', '--without-torch'], project)
    assert git(project, 'cat-file', '-t', 'v0.2.0').strip() == 'tag'
    assert git(project, 'tag', '-l', '--format=%(contents)').strip() == 'Version 0.2.0\n\n### Added\n\n* New.'
    with pytest.raises(SystemExit, match=r'v0\.2\.0 exists already'):
        release.main(['0.2.0', '--tag'], project)


def test_no_tag_after_a_failure(project, calls, monkeypatch):
    def fails(*arguments):
        raise release.ReleaseError('the wheel does not work')

    commit_prepared(project)
    monkeypatch.setattr(release, 'try_wheel', fails)
    with pytest.raises(SystemExit, match='the wheel does not work'):
        release.main(['0.2.0', '--tag'], project)
    assert git(project, 'tag') == '' and not (project / 'dist/0.2.0/notes.md').exists()


@pytest.mark.medium
def test_a_real_release(tmp_path):
    """Of a copy of this project, without torch."""
    for module in ('build', 'twine', 'wheel'):
        if find_spec(module) is None:
            pytest.skip(f'needs {module}: make setup SETUP_GROUPS="run test docs release"')
    clone = tmp_path / 'clone'
    ignored = shutil.ignore_patterns(
        '.git', '.venv*', 'build', 'dist', '*.egg-info', '__pycache__', 'data', 'work_dirs'
    )
    shutil.copytree(ROOT, clone, ignore=ignored)
    changelog = clone / 'CHANGELOG.md'
    if '## Unreleased' not in changelog.read_text():
        changelog.write_text(changelog.read_text().replace('\n## ', '\n## Unreleased\n\n### Added\n\n* New.\n\n## ', 1))
    git(clone, 'init', '-q')
    release.prepare(clone, '9.8.7', '2026-01-01')
    git(clone, 'add', '.')
    git(clone, 'commit', '-qm', 'Version 9.8.7')
    command = [sys.executable, clone / 'tools/release.py', '9.8.7', '--without-torch']
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    out = clone / 'dist/9.8.7'
    assert {path.name for path in out.iterdir()} == {
        'bucketed_losses-9.8.7-py3-none-any.whl',
        'bucketed_losses-9.8.7.tar.gz',
        'notes.md',
    }
    names = zipfile.ZipFile(out / 'bucketed_losses-9.8.7-py3-none-any.whl').namelist()
    assert {'bucketed_losses/.mim/model-index.yml', 'bucketed_losses/.mim/tools/train.py'} <= set(names)
    assert not [name for name in names if name.startswith('tests')]
