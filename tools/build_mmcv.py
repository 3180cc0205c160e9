"""Build a wheel of mmcv with its compiled operators, for the torch and the Python that run this script.

PyPI has the sources of mmcv (and of onedl-mmcv) only. Compiled file by file they take 12 minutes on two cores, because
each of the 77 files reads all of torch's headers. This script joins the files into seven and leaves debug information
out, which takes a quarter of that time. If the joined files do not compile, it builds the package as it is.

    python tools/build_mmcv.py mmcv==2.1.0 --out wheels/
    python tools/build_mmcv.py --check              # does the installed mmcv work?

The environment must contain torch, ``setuptools>=77,<81``, ``wheel``, ``ninja`` and ``psutil``; a C++ compiler and
Python's header files must be installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

CSRC = Path('mmcv/ops/csrc/pytorch')

# Files that cannot share a compilation unit with the others: they define names or macros (``min``, ``max``) that the
# others define or use as well. The third group must be in this order.
SEPARATE = (
    ('roi_align_rotated.cpp',),
    ('rotated_feature_align.cpp',),
    ('bezier_align.cpp', 'box_iou_quadri.cpp', 'psamask.cpp'),
)

FLAGS = '-g0 -O2'
"""Compiler flags of a build. Debug information would take a third of the time and most of the wheel."""

Progress = Callable[[int, int], None]
"""Called with the number of compiled files and the number of files."""


def join_sources(root: Path) -> int:
    """Join the C++ sources of an unpacked mmcv into larger compilation units, in place.

    ``setup.py`` compiles every ``*.cpp`` of two folders. A source file becomes an ``.inc`` file, and a new ``.cpp``
    file includes several of those. ``pybind.cpp`` and the CUDA sources stay as they are.

    Args:
        root: The folder that contains ``setup.py``.

    Returns:
        The number of compilation units without CUDA.
    """
    operators = sorted(path for path in (root / CSRC).glob('*.cpp') if path.name != 'pybind.cpp')
    half = len(operators) // 2
    groups = [operators[:half], operators[half:]]
    kernels = {path.name: path for path in sorted((root / CSRC / 'cpu').glob('*.cpp'))}
    apart = [[kernels[name] for name in names if name in kernels] for names in SEPARATE]
    taken = {path for group in apart for path in group}
    groups += [[path for path in kernels.values() if path not in taken], *apart]
    groups = [group for group in groups if group]
    for number, group in enumerate(groups):
        unit = group[0].with_name(f'unit_{number}.cpp')
        includes = [path.rename(path.with_suffix('.inc')).name for path in group]
        unit.write_text('#include <torch/extension.h>\n' + ''.join(f'#include "{name}"\n' for name in includes))
    return len(groups) + 1


def mend_setup(setup: Path) -> None:
    """Let mmcv's ``setup.py`` find its version on Python 3.13, where ``exec`` no longer writes to ``locals()``."""
    text = setup.read_text()
    text = text.replace(
        "exec(compile(f.read(), version_file, 'exec'))", "exec(compile(f.read(), version_file, 'exec'), scope := {})"
    )
    setup.write_text(text.replace("return locals()['__version__']", "return scope['__version__']"))


def pip(*arguments: str | Path) -> list[str]:
    """A pip command of this interpreter that neither asks questions nor looks for a newer pip."""
    return [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--no-input', *map(str, arguments)]


def build(
    requirement: str, out: Path, log: Path, progress: Progress | None = None, jobs: int | None = None, join: bool = True
) -> Path:
    """Build a wheel with compiled operators.

    Args:
        requirement: ``mmcv==VERSION`` or ``onedl-mmcv==VERSION``.
        out: Folder for the wheel.
        log: File to which the output of pip and the compiler is appended.
        progress: Called after each compiled file.
        jobs: Number of compilers at a time; all cores by default.
        join: Join the sources first, and build the package as it is only if that fails.

    Returns:
        The path of the wheel.

    Raises:
        RuntimeError: The build failed; the message contains the end of the log.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='build-mmcv-') as folder, log.open('a') as lines:
        source = _download(requirement, Path(folder), lines)
        if source is None:
            raise RuntimeError(f'{requirement} could not be downloaded.\n{_end_of(log)}')
        mend_setup(source / 'setup.py')
        for joined in (True, False) if join else (False,):
            root = Path(folder, 'joined' if joined else 'plain')
            shutil.copytree(source, root)
            if joined:
                join_sources(root)
            wheel = _compile(root, Path(folder, 'wheel'), lines, progress, jobs)
            if wheel is not None:
                return Path(shutil.move(wheel, out / wheel.name))
            if joined:
                lines.write('== The joined sources did not compile. Building the package as it is.\n')
                lines.flush()
    raise RuntimeError(
        f'{requirement} could not be built. It needs a C++ compiler (g++) and the header files of Python '
        f'(python3-dev). Where torch finds a GPU, it also needs the CUDA toolkit (nvcc); set CUDA_VISIBLE_DEVICES= to '
        f'compile for the CPU.\n{_end_of(log)}'
    )


def _download(requirement: str, folder: Path, log: IO[str]) -> Path | None:
    """The folder of the unpacked source distribution, or None if there is none.

    pip unpacks the sources and runs their ``setup.py`` for metadata, which fails on Python 3.13 (:func:`mend_setup`).
    The unpacked sources are all that is needed, whether that succeeds or not.
    """
    command = pip('download', '-q', '--no-clean', '--no-build-isolation', '--no-deps', '--no-binary', ':all:')
    unpacked = folder / 'unpacked'
    unpacked.mkdir()
    environment = {**os.environ, 'TMPDIR': str(unpacked)}
    subprocess.call([*command, '-d', str(folder), requirement], env=environment, stdout=log, stderr=log)
    return next((path.parent for path in unpacked.glob('pip-*/*/setup.py')), None)


def _compile(root: Path, out: Path, log: IO[str], progress: Progress | None, jobs: int | None) -> Path | None:
    """The wheel of an unpacked source distribution, or None if it does not build."""
    environment = {
        **os.environ,
        'MMCV_WITH_OPS': '1',
        'CFLAGS': f'{os.environ.get("CFLAGS", "")} {FLAGS}'.strip(),
        'MAX_JOBS': str(jobs or os.cpu_count() or 1),
        # torch looks for ninja on the PATH; without it the files would be compiled one after the other.
        'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')]),
    }
    # --no-cache-dir: pip's own cache would hand out a wheel that was built for another torch.
    command = pip('wheel', '--no-cache-dir', '--no-build-isolation', '--no-deps', '-v', '-w', out, root)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        log.write(line)
        log.flush()
        step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
        if step and progress:
            progress(int(step[1]), int(step[2]))
    if process.wait() != 0:
        return None
    return next(iter(out.glob('*.whl')), None)


def _end_of(log: Path, lines: int = 30) -> str:
    return '\n'.join(log.read_text(errors='replace').splitlines()[-lines:])


def wheel_key(requirement: str) -> str:
    """What a compiled wheel depends on: mmcv, torch, Python, machine and compiler flags, as the name of a folder."""
    import platform

    import torch

    python = f'cp{sys.version_info[0]}{sys.version_info[1]}'
    # As mmcv's setup.py decides.
    cuda = torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'
    flags = (os.environ.get('CFLAGS', '') + FLAGS).replace(' ', '').replace('/', '')
    machine = f'{platform.machine()}-{"cuda" if cuda else "cpu"}'
    return f'{requirement}-torch{torch.__version__}-{python}-{machine}{flags}'


def check() -> None:
    """Run NMS, RoIAlign and deformable attention of the installed mmcv on small inputs.

    Raises:
        ImportError: mmcv is missing, has no compiled operators, or was compiled for another torch.
        ValueError: An operator returned a wrong result.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package is not installed yet
    from bucketed_losses.doctor import operators

    operators.check_nms()
    operators.check_roi_align()
    operators.check_deformable_attention()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('requirement', nargs='?', help='mmcv==VERSION or onedl-mmcv==VERSION')
    parser.add_argument('--out', type=Path, default=Path(), help='folder for the wheel (default: the current folder)')
    parser.add_argument(
        '--log', type=Path, help='file for the output of the compiler (default: build-mmcv.log in --out)'
    )
    parser.add_argument('--jobs', type=int, help='number of compilers at a time (default: the number of cores)')
    parser.add_argument('--no-join', action='store_true', help='compile the sources one by one')
    parser.add_argument('--check', action='store_true', help='only run some operators of the installed mmcv')
    parser.add_argument(
        '--key', action='store_true', help='print the name of the cache folder for such a wheel, and build nothing'
    )
    args = parser.parse_args(argv)
    if args.check:
        check()
        return
    if not args.requirement:
        parser.error('the requirement is missing: write what to build, for example mmcv==2.1.0')
    if args.key:
        print(wheel_key(args.requirement))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        print(f'compiled {done} of {total} files after {time.monotonic() - started:.0f} s', flush=True)

    log = args.log or args.out / 'build-mmcv.log'
    try:
        wheel = build(args.requirement, args.out, log, show, args.jobs, join=not args.no_join)
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
    print(wheel)


if __name__ == '__main__':
    main()
