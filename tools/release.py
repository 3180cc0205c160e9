"""Make a release: build and check its files, write its notes and, if asked, tag it. Nothing is uploaded.

    make release VERSION=0.2.0 PREPARE=1    # set the version in all places; look at the change and commit it
    make release VERSION=0.2.0              # build and check; the results are in dist/0.2.0
    make release VERSION=0.2.0 TAG=1        # the same, and the annotated tag v0.2.0 at the end

The steps stop at the first failure:

1. The working tree is clean, and the version is the same in ``bucketed_losses/version.py``, ``CITATION.cff``,
   ``README.md`` and the newest section of ``CHANGELOG.md``.
2. ``python -m build`` makes the sdist from the committed files, and the wheel from the sdist.
3. ``twine check --strict`` reads their metadata.
4. The wheel is installed into an empty environment. There, the package is imported, and the command prints its version,
   its help and the doctor's report. Then torch is installed, and a loss is computed.
5. The section of the changelog becomes the notes.

The environment must contain ``build``, ``twine`` and ``setuptools`` (``make release`` installs them).
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = 'requirements/current/torch.txt'
# Where each file states the version.
STATED = {
    'bucketed_losses/version.py': r"^__version__ = '(.+)'$",
    'CITATION.cff': r'^version: (.+)$',
    'README.md': r'^  version = \{(.+)\},$',
    'CHANGELOG.md': r'^## (\S+)',
}

LOSS = """
import torch
from bucketed_losses import functional as F
logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0], requires_grad=True)
loss = F.bucketed_rs_loss(logits, torch.tensor([0.0, 0.6, 0.0, 0.9, 0.0]), delta=0.0)
loss.total.backward()
assert loss.ranking.item() == 0.5 and logits.grad[0].item() > 0, (loss, logits.grad)
"""


class ReleaseError(Exception):
    """What stands in the way of the release, and what to do."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """The standard output of a command.

    Raises:
        ReleaseError: The command fails; the message contains its output.
    """
    words = [str(word) for word in command]
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    result = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise ReleaseError(f'{" ".join(words)}\nfailed:\n{result.stdout}{result.stderr}')
    return result.stdout


def versions(root: Path) -> dict[str, str | None]:
    """The version that each file states."""
    found = {name: re.search(pattern, (root / name).read_text(), re.MULTILINE) for name, pattern in STATED.items()}
    return {name: match[1] if match else None for name, match in found.items()}


def prepare(root: Path, version: str, date: str) -> None:
    """Set the version in all files, and give the changelog's section "Unreleased" its name and date.

    Raises:
        ReleaseError: The changelog has no section "Unreleased".
    """
    changelog = (root / 'CHANGELOG.md').read_text()
    if not re.search(r'^## Unreleased$', changelog, re.MULTILINE):
        raise ReleaseError('CHANGELOG.md has no section "## Unreleased", so there is nothing to release.')
    changelog = re.sub(r'^## Unreleased$', f'## {version} ({date})', changelog, flags=re.MULTILINE)
    (root / 'CHANGELOG.md').write_text(changelog)
    for name in ('bucketed_losses/version.py', 'CITATION.cff', 'README.md'):
        text = (root / name).read_text()
        (root / name).write_text(re.sub(STATED[name], lambda m: m[0].replace(m[1], version), text, flags=re.MULTILINE))
    citation = root / 'CITATION.cff'
    text = re.sub(r'^date-released: .*\n', '', citation.read_text(), flags=re.MULTILINE)
    citation.write_text(re.sub(STATED['CITATION.cff'], rf'\g<0>\ndate-released: {date}', text, flags=re.MULTILINE))


def check_versions(root: Path, version: str) -> None:
    """
    Raises:
        ReleaseError: A file states another version.
    """
    wrong = [f'{name} ({found})' for name, found in versions(root).items() if found != version]
    if wrong:
        raise ReleaseError(
            f'These files state another version than {version}: {", ".join(wrong)}. '
            f'Run "make release VERSION={version} PREPARE=1" and commit the result.'
        )


def check_git(root: Path, version: str, tag: bool) -> None:
    """
    Raises:
        ReleaseError: The working tree has changes, or the tag exists already.
    """
    if changes := run('git', 'status', '--porcelain', cwd=root):
        raise ReleaseError(f'The working tree is not clean. Commit or remove these changes:\n{changes}')
    if tag and run('git', 'tag', '--list', f'v{version}', cwd=root):
        raise ReleaseError(
            f'The tag v{version} exists already. A released version does not change: choose the next one.'
        )


def notes(root: Path, version: str) -> str:
    """The section of the changelog of a version, without its heading.

    Raises:
        ReleaseError: There is no such section, or it is empty.
    """
    text = (root / 'CHANGELOG.md').read_text()
    match = re.search(rf'^## {re.escape(version)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)', text, re.MULTILINE | re.DOTALL)
    if match is None or not match[1].strip():
        raise ReleaseError(f'CHANGELOG.md has no section on {version}, or the section is empty.')
    return match[1].strip() + '\n'


def build(root: Path, out: Path) -> list[Path]:
    """Build the sdist from the committed files and the wheel from the sdist, and check their metadata."""
    with tempfile.TemporaryDirectory() as folder:
        archive, source = Path(folder, 'source.tar'), Path(folder, 'source')
        run('git', 'archive', '--output', archive, 'HEAD', cwd=root)
        with tarfile.open(archive) as tar:
            tar.extractall(source, filter='data')
        run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, source)
    files = sorted(path for path in out.iterdir() if path.name.endswith(('.tar.gz', '.whl')))
    run(sys.executable, '-m', 'twine', 'check', '--strict', *files)
    return files


def try_wheel(root: Path, wheel: Path, version: str, with_torch: bool) -> None:
    """Install the wheel into an empty environment and use it there.

    Raises:
        ReleaseError: A step fails, or another version answers.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, 'environment')
        venv.create(environment, with_pip=False)
        python, command = environment / 'bin/python', environment / 'bin/bucketed-losses'
        pip: list[str | Path] = [
            sys.executable,
            '-m',
            'pip',
            '--disable-pip-version-check',
            '--python',
            python,
            'install',
            '-q',
        ]
        run(*pip, '--no-deps', '--no-index', wheel, cwd=environment)
        imported = run(python, '-c', 'import bucketed_losses as b; print(b.__version__)', cwd=environment).strip()
        printed = run(command, '--version', cwd=environment).strip()
        if {imported, printed} != {version}:
            raise ReleaseError(f'The wheel of {version} states version {imported}, its command {printed}.')
        if 'swap' not in run(command, '--help', cwd=environment):
            raise ReleaseError('The help of bucketed-losses does not list the verb swap.')
        if with_torch:
            run(*pip, '-r', root / TORCH, wheel, cwd=environment)
            run(python, '-c', LOSS, cwd=environment)
            run(command, 'doctor', cwd=environment)


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('version', help='the version to release, such as 0.2.0')
    parser.add_argument('--prepare', action='store_true', help='set the version in all files, and stop')
    parser.add_argument('--tag', action='store_true', help='make the annotated tag vVERSION if all checks pass')
    parser.add_argument('--without-torch', action='store_true', help='do not install torch to compute a loss')
    args = parser.parse_args(argv)
    version = args.version
    try:
        if not re.fullmatch(r'\d+\.\d+\.\d+((a|b|rc)\d+)?', version):
            raise ReleaseError(f'{version!r} is not a version. Write MAJOR.MINOR.PATCH, such as 0.2.0.')
        if args.prepare:
            prepare(root, version, datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d'))
            print(f'The version is {version} everywhere. Look at "git diff" and commit it.')
            return
        check_git(root, version, args.tag)
        check_versions(root, version)
        text = notes(root, version)
        out = root / 'dist' / version
        shutil.rmtree(out, ignore_errors=True)
        print('Building the sdist and the wheel ...', flush=True)
        files = build(root, out)
        (wheel,) = (path for path in files if path.suffix == '.whl')
        print('Trying the wheel in an empty environment ...', flush=True)
        try_wheel(root, wheel, version, not args.without_torch)
        (out / 'notes.md').write_text(text)
        if args.tag:
            message = f'Version {version}\n\n{text}'
            run('git', 'tag', '--annotate', '--cleanup=verbatim', '--message', message, f'v{version}', cwd=root)
            print(f'Tagged v{version}.')
        print(f'All checks passed. The sdist, the wheel and the notes are in {out}.')
    except ReleaseError as error:
        raise SystemExit(f'release: {error}') from error


if __name__ == '__main__':
    main()
