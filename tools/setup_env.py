"""Set up a virtual environment with pinned versions, mmcv's compiled operators, and this package (editable).

    tools/setup_env.sh [--stack NAME] [--groups run test docs lint release] [--python python3.12]

The stacks are in requirements/stacks.ini. The default one goes to .venv, another one to .venv-NAME. A second call with
nothing changed returns at once; after a pin has changed, only its group is installed again. A step that was interrupted
is not marked as done and is repeated by the next call.

Environment variables:

    STACK, PYTHON     defaults of the options; PYTHON is a name or a path
    MMCV_WHEEL        a wheel of mmcv to install, instead of building one
    PINS              versions to install instead of the pinned ones, for example PINS='mmengine==0.10.4'
    MAX_JOBS          number of compilers at a time (default: the number of cores)
    XDG_CACHE_HOME    built wheels are kept in its folder bucketed-losses/ (default: ~/.cache)
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ('run', 'test', 'docs', 'lint', 'release')


class SetupError(Exception):
    """What stands in the way, and how to get past it."""


class Stack(NamedTuple):
    """One section of requirements/stacks.ini."""

    name: str
    pythons: list[str]
    mmcv: str | None
    pins: Path
    edit: str | None

    @property
    def venv(self) -> Path:
        return ROOT / ('.venv' if self.name == 'current' else f'.venv-{self.name}')


def read_stacks() -> configparser.ConfigParser:
    """All stacks: a section of requirements/stacks.ini for each."""
    stacks = configparser.ConfigParser()
    stacks.read(ROOT / 'requirements/stacks.ini')
    return stacks


def read_stack(name: str, python: str) -> Stack:
    """The stack of that name, with its pins for a Python version."""
    stacks = read_stacks()
    if name not in stacks:
        raise SetupError(f'There is no stack {name!r}. The stacks are {", ".join(stacks.sections())}.')
    section = stacks[name]
    pins = ROOT / 'requirements' / section.get(f'pins-{python}', section['pins'])
    return Stack(name, section['python'].split(), section.get('mmcv'), pins, section.get('edit'))


def find_python(wanted: Sequence[str], given: str | None) -> tuple[str, str]:
    """The interpreter for a stack, and its version as '3.12'.

    Raises:
        SetupError: None of the wanted versions is installed, or the given one is another.
    """
    if given:
        version = _version_of(given)
        if version is None:
            raise SetupError(f'PYTHON={given} cannot be run. Set PYTHON to the name or path of Python {_or(wanted)}.')
        if version not in wanted:
            raise SetupError(
                f'PYTHON={given} is Python {version}; this stack needs Python {_or(wanted)}. Set PYTHON to one of '
                'those, or install the package into an environment of your own (docs/getting_started.md).'
            )
        return given, version
    folders = [*os.environ.get('PATH', '').split(os.pathsep)]
    managed = [Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'), 'versions')]
    managed.append(Path.home() / '.local/share/uv/python')
    folders += [str(path / 'bin') for root in managed if root.is_dir() for path in sorted(root.iterdir(), reverse=True)]
    for version in wanted:
        for folder in folders:
            candidate = str(Path(folder, f'python{version}'))
            if Path(candidate).is_file() and _version_of(candidate) == version:
                return candidate, version
    if (version := _version_of('python3') or '') in wanted:
        return 'python3', version
    raise SetupError(
        f'No Python {_or(wanted)} was found; this stack needs one of them. Install one (on Debian and Ubuntu: '
        f'apt-get install python{wanted[0]}-venv python{wanted[0]}-dev), or set PYTHON=/path/to/python.'
    )


def _version_of(python: str) -> str | None:
    code = 'import sys; print("%d.%d" % sys.version_info[:2])'
    try:
        result = subprocess.run([python, '-c', code], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _or(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} or {names[-1]}'


class Report:
    """Says what is being done, how far it is and how long it has taken; on a terminal, in one line that changes."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def begin(self, what: str) -> None:
        self._line(f'{self._clock()}  {what}', lasting=True)

    def progress(self, what: str) -> None:
        self._line(f'{self._clock()}    {what}', lasting=not self._terminal)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f'{minutes:2d}:{seconds:02d}'

    def _line(self, text: str, lasting: bool) -> None:
        with self._lock:
            if self._terminal:
                print(f'\r\033[K{text}', end='\n' if lasting else '', flush=True)
            else:
                print(text, flush=True)


class Setup:
    """The steps, each of which knows whether it has been done already."""

    def __init__(self, stack: Stack, interpreter: str, version: str, groups: Sequence[str]) -> None:
        self.stack = stack
        self.interpreter = interpreter
        self.version = version
        self.groups = [group for group in GROUPS if group in groups and (stack.pins / f'{group}.txt').is_file()]
        self.python = stack.venv / 'bin/python'
        self.log = stack.venv / 'setup.log'
        self.done_file = stack.venv / 'done.json'
        self.done: dict[str, str] = {}
        if self.done_file.is_file():
            self.done = json.loads(self.done_file.read_text())
        self.report = Report()

    def states(self) -> dict[str, str]:
        """What each step depends on; a step is done if this is what its mark says."""
        venv = f'{self.version} {ROOT}'
        torch = _digest(venv, self.stack.pins / 'torch.txt', ROOT / 'requirements/build.txt')
        states = {'venv': venv, 'torch': torch}
        for group in self.groups:
            edits = f'{self.stack.edit or ""} {os.environ.get("PINS", "")}' if group == 'run' else ''
            states[group] = _digest(torch, self.stack.pins / f'{group}.txt', edits)
        if self.stack.mmcv:
            wheel = os.environ.get('MMCV_WHEEL') or self.done.get('mmcv', '').partition(' ')[2]
            states['mmcv'] = f'{_digest(torch, self.stack.mmcv)} {wheel}'
        states['package'] = _digest(venv, ROOT / 'pyproject.toml', ROOT / 'setup.py')
        return states

    def run(self) -> None:
        states = self.states()
        if self.done == {**self.done, **states} and self.python.exists():
            return
        name = self.stack.name
        self.report.begin(f'Setting up the stack "{name}" in {self.stack.venv.name} with Python {self.version}')
        if not self._is_done('venv', states) or not self.python.exists():
            # An environment that the user has made is used; one that this script made for another folder is not.
            there = _version_of(str(self.python))
            if self.done or there != self.version:
                self._refuse_to_remove(there)
                shutil.rmtree(self.stack.venv, ignore_errors=True)
                self._call(self.interpreter, '-m', 'venv', self.stack.venv)
            self.done = {}
            self._mark('venv', states)
        if not self._is_done('torch', states):
            self.report.begin('Installing torch (up to 3 GB on Linux where torch comes with CUDA)')
            self._pip(
                'install', '--no-compile', '-r', ROOT / 'requirements/build.txt', '-r', self.stack.pins / 'torch.txt'
            )
            self._mark('torch', states)
        builder = None
        if self.stack.mmcv and not self._is_done('mmcv', states) and not self._has_working_mmcv():
            builder = ThreadPoolExecutor(1).submit(self._mmcv_wheel)
        groups = [group for group in self.groups if not self._is_done(group, states)]
        if builder:
            downloads = self.stack.venv / 'downloads'
            # pip fills its cache while the compiler runs. It installs nothing meanwhile: a process that loads a library
            # while pip writes it is killed.
            for group in groups:
                self._pip('download', '-q', '--no-deps', '-d', downloads, '-r', self._pins_of(group))
            wheel = builder.result()
            shutil.rmtree(downloads, ignore_errors=True)
        for group in groups:
            count = len(_lines(self._pins_of(group)))
            self.report.begin(f'Installing {count} packages ({group})')
            self._pip('install', '--no-compile', '--no-deps', '-r', self._pins_of(group))
            if group == 'run' and (other := os.environ.get('PINS', '').split()):
                self._pip('install', '--no-compile', '--no-deps', *other)
            if group == 'run' and self.stack.edit:
                self._edit_mmdet()
            self._mark(group, states)
        if builder:
            self._install_mmcv(wheel)
        if self.stack.mmcv:
            self.done['mmcv'] = states['mmcv'].partition(' ')[0] + f' {os.environ.get("MMCV_WHEEL", "")}'
            self._save()
        if not self._is_done('package', states):
            self._pip('install', '--no-deps', '--no-build-isolation', '-e', ROOT)
            self._mark('package', states)
        self.report.begin('The environment is ready')

    def _refuse_to_remove(self, there: str | None) -> None:
        """Stop before an environment that the user has made is replaced. `there` is the version of its Python.

        Raises:
            SetupError: The folder is not empty, and this script has not made it.
        """
        venv = self.stack.venv
        # The log is written before the environment is made, also if that is interrupted.
        if self.done or self.log.exists() or not os.path.lexists(venv) or (venv.is_dir() and not any(venv.iterdir())):
            return
        content = 'no Python that runs' if there is None else f'Python {there}'
        keep = f', or set PYTHON={self.python} to use it' if there in self.stack.pythons else ''
        raise SetupError(
            f'{venv} was not made by this script and has {content}, not Python {self.version}, so it was not replaced. '
            f'Move it to another place, or remove it{keep}.'
        )

    # mmcv

    def _has_working_mmcv(self) -> bool:
        """Whether the environment contains the version of the stack and its operators run."""
        assert self.stack.mmcv
        name, _, version = self.stack.mmcv.partition('==')
        metadata = f'lib/python*/site-packages/{name.replace("-", "_")}-{version}.dist-info'
        if os.environ.get('MMCV_WHEEL') or not list(self.stack.venv.glob(metadata)):
            return False
        check = [str(self.python), str(ROOT / 'tools/build_mmcv.py'), '--check']
        return subprocess.run(check, capture_output=True).returncode == 0

    def _mmcv_wheel(self) -> Path:
        assert self.stack.mmcv
        if given := os.environ.get('MMCV_WHEEL'):
            if not Path(given).is_file():
                raise SetupError(f'MMCV_WHEEL={given} is not a file. Set it to the path of a wheel, or leave it out.')
            return Path(given)
        wheels = self._wheels()
        if not list(wheels.glob('*.whl')):
            self.report.begin(f'Compiling the operators of {self.stack.mmcv} for this torch (about 3 minutes)')
            self._build(wheels)
        return next(wheels.glob('*.whl'))

    def _wheels(self) -> Path:
        """The folder of the cache for this mmcv, torch, Python, machine and these compiler flags."""
        assert self.stack.mmcv
        command = [self.python, ROOT / 'tools/build_mmcv.py', self.stack.mmcv, '--key']
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if result.returncode != 0:
            raise SetupError(f'torch cannot be imported:\n{result.stderr}')
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
        return cache / 'bucketed-losses' / result.stdout.strip()

    def _build(self, wheels: Path, *options: str) -> None:
        # Into the cache in one step: complete or not there at all, whatever else is building at the same time.
        wheels.parent.mkdir(parents=True, exist_ok=True)
        incoming = wheels.parent / f'.incoming-{os.getpid()}'
        log = self.stack.venv / 'build-mmcv.log'
        command = [self.python, ROOT / 'tools/build_mmcv.py', self.stack.mmcv]
        command += ['--out', incoming, '--log', log, *options]
        if jobs := os.environ.get('MAX_JOBS'):
            command += ['--jobs', jobs]
        started = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        output = ''
        for line in process.stdout:
            output += line
            words = line.split()
            if words[:1] == ['compiled']:
                done, total = int(words[1]), int(words[3])
                left = (time.monotonic() - started) / done * (total - done)
                self.report.progress(f'mmcv: {done} of {total} files compiled, about {left / 60:.0f} min left')
        if process.wait() != 0:
            shutil.rmtree(incoming, ignore_errors=True)
            raise SetupError(f'{output.strip()}\nThe whole output is in {log}.')
        shutil.rmtree(wheels, ignore_errors=True)
        try:
            incoming.rename(wheels)
        except OSError:  # another process was faster
            shutil.rmtree(incoming, ignore_errors=True)

    def _install_mmcv(self, wheel: Path) -> None:
        self._pip('install', '--no-deps', '--force-reinstall', wheel)
        check = [str(self.python), str(ROOT / 'tools/build_mmcv.py'), '--check']
        result = subprocess.run(check, capture_output=True, text=True)
        if result.returncode == 0:
            return
        if os.environ.get('MMCV_WHEEL'):
            raise SetupError(f'{wheel} does not work with this torch:\n{result.stderr}')
        self.report.begin('The joined operators do not work here; compiling them one by one (10 to 20 minutes)')
        self._build(self._wheels(), '--no-join')
        self._pip('install', '--no-deps', '--force-reinstall', next(self._wheels().glob('*.whl')))
        self._call(*check)

    def _edit_mmdet(self) -> None:
        (package,) = self.stack.venv.glob('lib/python*/site-packages/mmdet/__init__.py')
        text = package.read_text()
        old = 'mmcv_version < digit_version(mmcv_maximum_version)'
        if old in text:
            package.write_text(text.replace(old, old.replace('<', '<=')))
            self.report.progress(f'edited the version check in {package.relative_to(ROOT)}, as users of mmcv 2.2 do')

    # Calls and marks

    def _pins_of(self, group: str) -> Path:
        return self.stack.pins / f'{group}.txt'

    def _pip(self, *arguments: str | Path) -> None:
        self._call(self.python, '-m', 'pip', '--disable-pip-version-check', '--no-input', *arguments)

    def _call(self, *command: str | Path) -> None:
        """Run a command with its output in the log.

        Raises:
            SetupError: It failed; the message contains the end of its output.
        """
        words = [str(part) for part in command]
        self.stack.venv.mkdir(exist_ok=True)
        with self.log.open('a+') as log:
            log.write(f'== {" ".join(words)}\n')
            log.flush()
            start = log.tell()
            status = subprocess.call(words, stdout=log, stderr=subprocess.STDOUT)
            if status != 0:
                log.seek(start)
                end = '\n'.join(line.rstrip() for line in log.readlines()[-15:])
                raise SetupError(f'{" ".join(words)}\nfailed:\n{end}\nThe whole output is in {self.log}.')

    def _is_done(self, step: str, states: dict[str, str]) -> bool:
        return self.done.get(step) == states[step]

    def _mark(self, step: str, states: dict[str, str]) -> None:
        self.done[step] = states[step]
        self._save()

    def _save(self) -> None:
        temporary = self.done_file.with_suffix('.new')
        temporary.write_text(json.dumps(self.done, indent=1))
        temporary.replace(self.done_file)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip() and not line.startswith('#')]


def _digest(*parts: str | Path) -> str:
    texts = [part.read_text() if isinstance(part, Path) else part for part in parts]
    return hashlib.sha256('\0'.join(texts).encode()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get('STACK') or 'current'
    parser.add_argument('--stack', default=default, help='the stack, a section of requirements/stacks.ini')
    parser.add_argument('--python', default=os.environ.get('PYTHON') or None, help='the interpreter to use')
    parser.add_argument(
        '--groups',
        nargs='+',
        choices=GROUPS,
        default=['run'],
        help='the groups of pinned packages to install (default: run)',
    )
    parser.add_argument('--print-python', action='store_true', help='only print the path of the environment')
    args = parser.parse_args(argv)
    try:
        stack = read_stack(args.stack, '')
        existing = stack.venv / 'bin/python'
        version = _version_of(str(existing)) if existing.exists() and not args.python else None
        if version in stack.pythons:
            # An environment that is there keeps its Python, which need not be on the PATH.
            interpreter = os.path.realpath(existing)
        else:
            interpreter, version = find_python(stack.pythons, args.python)
        stack = read_stack(args.stack, version)
        if args.print_python:
            print(stack.venv)
            return
        Setup(stack, interpreter, version, args.groups).run()
    except SetupError as error:
        raise SystemExit(f'setup: {error}') from error
    except KeyboardInterrupt:
        raise SystemExit('\nsetup: stopped. Run the same command again to continue.') from None


if __name__ == '__main__':
    main()
