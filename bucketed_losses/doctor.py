"""Report on the environment: versions, traps of the OpenMMLab packages, and whether losses and operators run.

    python -m bucketed_losses.doctor            # or, also without torch: python bucketed_losses/doctor.py
    python -m bucketed_losses.doctor --json     # the same for programs

The exit code is 0 without problems and 1 with problems; notes do not count. Every problem comes with a command that
mends it; commands with tools/ or with pip install -e need a clone of this project. This module imports the standard
library alone. Versions come from the metadata of the installed distributions. torch and mmcv are imported in another
process only, so that a crash there becomes part of the report.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
OPENMMLAB = ('mmengine', 'mmcv', 'mmdet')
ONEDL = {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmdet': 'onedl-mmdetection'}
"""OpenMMLab's distributions are called like their modules; OneDL's forks install the same modules. The two families
exclude each other: they write the same files."""
LIMITS = {'mmengine': ('0.10.4', '1'), 'mmcv': ('2.1', '3'), 'mmdet': ('3.3', '4')}
"""The lowest supported version of each module of MMDetection, and the first one that is not supported any more."""

TRAPS = ('mmcv-lite', 'mmcv-full')
OTHERS = ('openmim', 'onedl-mim', 'opencv-python', 'opencv-python-headless', 'lvis', 'cityscapesscripts', 'pycocotools')
DISTRIBUTIONS = (
    'bucketed-losses',
    'torch',
    'torchvision',
    'numpy',
    *OPENMMLAB,
    *ONEDL.values(),
    *TRAPS,
    *OTHERS,
    'setuptools',
    'click',
)

WHEELS = {(2, 1): ('2.1.0', 11), (2, 2): ('2.2.0', 12), (2, 3): ('2.2.0', 12), (2, 4): ('2.2.0', 12)}
"""OpenMMLab's wheels of mmcv for Linux on x86_64: torch to the version of mmcv and the newest Python 3."""
WHEELS_CUDA = ('cpu', 'cu118', 'cu121')
ONEDL_WHEELS = dict(
    cpu=(4, 5, 8, 9, 10, 12), cu118=(4, 5), cu124=(4, 5), cu126=(8, 12), cu128=(8,), cu129=(8, 9, 10), cu130=(12,)
)
"""OneDL's wheels of mmcv for Linux on x86_64: CUDA of torch to the minor versions of torch 2."""

CHECKS = ('loss on CPU', 'loss on CUDA', 'NMS on CPU', 'RoIAlign on CPU', 'NMS on CUDA', 'RoIAlign on CUDA', 'plug-in')
EDIT = 's/mmcv_version < digit_version(mmcv_maximum_version)/mmcv_version <= digit_version(mmcv_maximum_version)/'
SETUPTOOLS = 'pip install "setuptools>=77,<81"'
HEADLESS = 'pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless'
IMPORT_NAMES = {'cv2': 'opencv-python-headless', 'PIL': 'pillow', 'sklearn': 'scikit-learn', 'yaml': 'pyyaml'}

PROBLEMS = (
    'python<3.10 | Python {python} is too old. | bucketed_losses needs Python 3.10 or newer. | python3.11 -m venv '
    '.venv && . .venv/bin/activate && pip install -e .',
    '!torch | torch is not installed. | The losses are functions of its tensors. | pip install "torch>=2.1"',
    'torch<2.1 | torch {torch} is too old. | bucketed_losses needs torch 2.1 or newer. | pip install -U "torch>=2.1"',
    'torch<2.3 numpy>=2 | torch {torch} does not work with numpy {numpy}. | torch 2.2 and older are compiled for '
    'numpy 1: tensors cannot be converted to arrays and back. | pip install "numpy<2"',
    'openmim onedl-mim | openmim and onedl-mim are both installed. | Both write the files of the module mim, so '
    'neither is complete. | pip uninstall -y openmim onedl-mim && pip install onedl-mim | pip uninstall -y openmim '
    'onedl-mim && pip install openmim',
    'openmim !pkg_resources | openmim {openmim} needs the module pkg_resources, which is missing. | The command mim '
    f'does not start: setuptools 82 and newer lack that module. | {SETUPTOOLS}',
    'mmengine<0.10.8 python>=3.12 !setuptools | setuptools is not installed. | mmengine {mmengine} imports the module '
    f'distutils, which Python {{python}} lacks and setuptools brings. | {SETUPTOOLS}',
    'setuptools<66.1 python>=3.12 | setuptools {setuptools} does not work with Python {python}. | It cannot build '
    f'packages, and pkg_resources cannot be imported; openmim 0.3.9 brings setuptools 60. | {SETUPTOOLS}',
)
"""Conditions (:meth:`Facts.holds`) | what is wrong | why it matters | commands that mend it."""

MENDED = (
    'You need to do nothing: importing bucketed_losses.mmdet works around it. MMDetection fails without that import.'
)
NOTES = (
    '!MMDetection | MMDetection is not installed. | The losses work without it. To train detectors, install mmcv first '
    'and MMDetection second: docs/getting_started.md, "Install".',
    'python>=3.14 | Python {python} is newer than the tested versions. | The tested versions are Python 3.10 to 3.13.',
    f'lvis numpy>=1.24 | lvis {{lvis}} uses np.float, which numpy {{numpy}} does not have. | {MENDED}',
    'cityscapesscripts numpy>=2.4 | cityscapesscripts {cityscapesscripts} uses np.in1d, which numpy {numpy} does not '
    f'have. | {MENDED}',
    f'mmengine<0.10.8 torch>=2.6 | mmengine {{mmengine}} cannot load its checkpoints with torch {{torch}}. | {MENDED}',
    'MMDetection torch<2.4 | torch {torch} cannot load the checkpoints of MMEngine safely. | You need to do nothing: '
    'bucketed_losses.mmdet loads them with a restricted unpickler of its own.',
    'opencv-python opencv-python-headless | opencv-python and opencv-python-headless are both installed. | They write '
    f'the same files; the one installed last is in use. | {HEADLESS}',
    'openmim click>=8.3 | The Slurm launcher of openmim {openmim} breaks with click {click}. | mim train and mim test '
    'fail with --launcher slurm. | pip install "click<8.3"',
    'onedl-mim click<8.3 | onedl-mim {onedl-mim} demands click 8.3 or newer; click {click} is installed. | The command '
    'mim may fail. | pip install "click>=8.3"',
    'MMDetection !openmim !pkg_resources | There is no module pkg_resources; setuptools 82 and newer lack it. | '
    f"Compiling OpenMMLab's mmcv needs it. | {SETUPTOOLS}",
    'setuptools<77 | setuptools {setuptools} cannot build bucketed_losses without build isolation. | pyproject.toml '
    f'demands setuptools 77; openmim 0.3.9 brings setuptools 60. | {SETUPTOOLS}',
)
CAUSES = (
    r"mmcv\._ext' | mmcv has no compiled operators. | pip builds mmcv in an environment without torch, and so without "
    'operators. | MMCV',
    r'undefined symbol|[Ss]ymbol not found|DLL load failed|lib(c10|torch|cudart)\S*: cannot open shared | The '
    'operators of mmcv do not fit torch {torch}. | They are compiled for another torch. | MMCV',
    'implementation for device cuda|not compiled with (GPU support|CUDA) | mmcv is compiled without CUDA. | Detectors '
    'cannot run on the GPU. | MMCV',
    'no kernel image | mmcv is not compiled for the GPU {gpu}. | Detectors cannot run on it. | COMPILE',
    'torchvision::nms does not exist | torchvision {torchvision} does not fit torch {torch}. | It cannot be '
    'imported. | pip uninstall -y torchvision && pip install torchvision torch=={torch}',
    r'compiled using NumPy 1|numpy\.dtype size changed|numpy\.core\.multiarray failed|_ARRAY_API not found | A package '
    'is compiled for another numpy. | It cannot be imported. | pip install "numpy<2"',
    r'lib(GL|gthread|glib|xcb|SM)\b\S*: cannot open | OpenCV needs graphics libraries that this system lacks. | '
    f'MMDetection imports OpenCV. | {HEADLESS}',
)
"""Error message | what is wrong | why it matters | command that mends it; MMCV and COMPILE: install or compile mmcv."""


@dataclass(frozen=True)
class Facts:
    """What is known about an environment; :func:`gather` fills it in.

    Attributes:
        python: The version of Python.
        versions: Installed distributions of ``DISTRIBUTIONS`` and their versions.
        system: Operating system and machine.
        executable: Path of the interpreter.
        cuda: The CUDA version that torch is built for, or None.
        gpu: The name of the GPU that torch can use, or None.
        pkg_resources: Whether the module ``pkg_resources`` (of setuptools before 82) is there.
        mmdet_init: Path of ``mmdet/__init__.py``, or None.
        mmdet_cap: What that file demands of mmcv: ``'<'`` or ``'<='`` and a version; None if it demands nothing.
        checks: Results of ``CHECKS``: ``'ok'`` or what went wrong. Checks that do not apply are missing.
    """

    python: str = '3.11.9'
    versions: dict[str, str] = field(default_factory=dict)
    system: str = 'Linux x86_64'
    executable: str = 'python'
    cuda: str | None = None
    gpu: str | None = None
    pkg_resources: bool = True
    mmdet_init: str | None = None
    mmdet_cap: str | None = None
    checks: dict[str, str] = field(default_factory=dict)

    def version(self, name: str) -> str:
        """The version of a distribution or of ``python``, or ''. ``pkg_resources`` and ``MMDetection`` have ``0``."""
        if name == 'pkg_resources':
            return '0' if self.pkg_resources else ''
        if name == 'MMDetection':
            return '0' if self.has('mmdet', ONEDL['mmdet']) else ''
        return self.python if name == 'python' else self.versions.get(name, '')

    def has(self, *distributions: str) -> list[str]:
        """Those of the distributions that are installed."""
        return [name for name in distributions if name in self.versions]

    def holds(self, conditions: str) -> bool:
        """Whether all conditions hold: ``name``, ``!name`` (not installed), ``name<2.1``, ``<=`` or ``>=``."""
        for condition in conditions.split():
            absent, name, operator, bound = re.findall(r'(!?)([\w-]+)(<=|<|>=)?([\d.]*)', condition)[0]
            version, limit = numbers(self.version(name)), numbers(bound)
            compared = {'': True, '<': version < limit, '<=': version <= limit, '>=': version >= limit}[operator]
            if bool(self.version(name)) == bool(absent) or not compared:
                return False
        return True


@dataclass(frozen=True)
class Finding:
    """A problem or a note.

    Attributes:
        what: What is wrong.
        why: Why it matters, one sentence.
        commands: Commands that mend it, the best one first; each of them is enough. Only notes may have none.
        problem: False for a note, which does not change the exit code.
    """

    what: str
    why: str
    commands: tuple[str, ...] = ()
    problem: bool = True


def numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version without trailing zeros, to compare: ``(2, 1)`` of ``2.1.0+cu121``."""
    parts = [int(part) for part in re.split(r'[^\d.]', version)[0].split('.') if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def stack(facts: Facts) -> str:
    """The name of the stack: ``core``, ``openmmlab``, ``openmmlab + mmcv 2.2``, ``onedl`` or ``mixed``."""
    if facts.has(*OPENMMLAB) and facts.has(*ONEDL.values()):
        return 'mixed'
    if facts.has('mmdet'):
        return 'openmmlab + mmcv 2.2' if facts.holds('mmcv>=2.2') else 'openmmlab'
    return 'onedl' if facts.has(ONEDL['mmdet']) else 'core'


def wheel_commands(facts: Facts, onedl: bool = False) -> tuple[str, ...]:
    """Commands that install a prebuilt mmcv for this torch, CUDA and Python; none if there is no such wheel."""
    torch, minor = _torch(facts), numbers(facts.python)[1]
    cuda = f'cu{facts.cuda.replace(".", "")}' if facts.cuda else 'cpu'
    if facts.system != 'Linux x86_64':
        return ()
    if onedl:
        command = f'{_uninstall(facts)}pip install onedl-mim && mim install onedl-mmcv --only-binary onedl-mmcv'
        return (command,) if torch[0] == 2 and torch[1] in ONEDL_WHEELS.get(cuda, ()) and minor in (10, 12) else ()
    version, newest = WHEELS.get(torch, ('', 0))
    if minor > newest or cuda not in WHEELS_CUDA:
        return ()
    wheel = f'install mmcv=={version} --only-binary mmcv'
    page = f'https://download.openmmlab.com/mmcv/dist/{cuda}/torch{torch[0]}.{torch[1]}.0/index.html'
    edit = f' && {edit_command(facts)}' if facts.mmdet_cap == f'<{version}' else ''
    mim = f'{_uninstall(facts)}pip install openmim "click<8.3" && mim {wheel} && {SETUPTOOLS}{edit}'
    pip = f'{_uninstall(facts)}pip {wheel} -f {page}{edit}'
    return (mim, pip) if minor < 12 else (pip,)  # openmim brings setuptools 60, which Python 3.12 cannot use


def compile_commands(facts: Facts, onedl: bool = False) -> tuple[str, ...]:
    """Commands that compile mmcv for the installed torch: in a clone of this project, and anywhere."""
    name = ONEDL['mmcv'] if onedl else 'mmcv'
    source = 'mmcv==2.1.0' if not onedl else '=='.join([name, *[facts.versions[name] for name in facts.has(name)]])
    force = 'FORCE_CUDA=1 ' if facts.gpu else ''
    tools = 'pip install "setuptools<81" wheel ninja psutil && '
    install = f'{_uninstall(facts)}pip install --no-deps wheels/{name.replace("-", "_")}-*.whl'
    options = f'--no-cache-dir --no-build-isolation --no-binary {name}'
    script = f'{tools}{force}python tools/build_mmcv.py {source} --out wheels/ && {install}'
    if not onedl and facts.holds('python>=3.13'):  # there setup.py of mmcv fails, and only the script mends it
        return (script,)
    return script, f'{_uninstall(facts)}{tools}MMCV_WITH_OPS=1 {force}pip install {options} {source}'


def edit_command(facts: Facts) -> str:
    """The command that makes MMDetection accept mmcv 2.2.0."""
    return f'sed -i {shlex.quote(EDIT)} {shlex.quote(facts.mmdet_init or "mmdet/__init__.py")}'


def _torch(facts: Facts) -> tuple[int, int]:
    """The first two numbers of torch's version; zeros without torch."""
    major, minor, *_ = (*numbers(facts.version('torch')), 0, 0)
    return major, minor


def _uninstall(facts: Facts) -> str:
    installed = facts.has('mmcv', ONEDL['mmcv'], *TRAPS)
    return f'pip uninstall -y {" ".join(installed)} && ' if installed else ''


def diagnose(facts: Facts) -> list[Finding]:
    """What is wrong in an environment, and what is good to know; problems first. Reads nothing but its argument."""

    def of(table: tuple[str, ...], problem: bool) -> Iterator[Finding]:
        for row in table:
            conditions, what, why, *commands = row.split(' | ')
            if facts.holds(conditions):
                yield Finding(_fill(what, facts), why, tuple(commands), problem)

    problems = [*of(PROBLEMS, True), *_of_stack(facts)]
    return [*problems, *_of_checks(facts, bool(problems)), *of(NOTES, False)]


def _fill(text: str, facts: Facts) -> str:
    versions = {name: facts.version(name).split('+')[0] for name in ('python', *DISTRIBUTIONS)}
    return text.format(**versions, gpu=facts.gpu)


def _of_stack(facts: Facts) -> Iterator[Finding]:
    name = stack(facts)
    if name in ('core', 'mixed'):
        yield from [_mixed(facts)] if name == 'mixed' else []
        return
    onedl = name == 'onedl'
    install_mmcv = (*wheel_commands(facts, onedl), *compile_commands(facts, onedl))
    if facts.has(*TRAPS):
        providers = [f'{mmcv} {facts.version(mmcv)}' for mmcv in facts.has(*TRAPS, 'mmcv', ONEDL['mmcv'])]
        why = 'mmcv-lite has no operators and mmcv-full is mmcv 1; they write the same files as mmcv.'
        yield Finding(f'The module mmcv comes from {" and ".join(providers)}.', why, install_mmcv)
    for module in OPENMMLAB:
        distribution, (lowest, end) = ONEDL[module] if onedl else module, LIMITS[module]
        demand, version = f'{distribution}>={lowest},<{end}', facts.version(distribution)
        commands = install_mmcv if module == 'mmcv' else (f'pip install "{demand}"',)
        if module == 'mmcv' and facts.has(*TRAPS):
            continue
        if not version:
            yield Finding(f'{distribution} is not installed.', 'MMDetection imports it.', commands)
        elif not facts.holds(f'{distribution}>={lowest} {distribution}<{end}'):
            yield Finding(f'{distribution} {version} is not supported.', f'bucketed_losses needs {demand}.', commands)
    cap, mmcv = facts.mmdet_cap, facts.version('mmcv')
    if not onedl and cap and mmcv and not facts.holds(f'mmcv{cap}'):
        lower = wheel_commands(facts) if _torch(facts) == (2, 1) else ()
        edit = (edit_command(facts),) if numbers(mmcv) == numbers(cap.strip('<=')) else ()
        yield Finding(
            f'mmdet {facts.version("mmdet")} refuses mmcv {mmcv}: it demands mmcv {cap}.',
            'import mmdet ends with an AssertionError; with mmcv 2.2.0 MMDetection works once that line is edited.',
            (*lower, *edit, *compile_commands(facts)),
        )


def _mixed(facts: Facts) -> Finding:
    """A mixed stack, and how to keep one family of it: OpenMMLab's where a wheel of its mmcv exists, else OneDL's."""
    present = facts.has(*OPENMMLAB, *ONEDL.values(), *TRAPS)
    clean = replace(facts, versions={k: v for k, v in facts.versions.items() if k not in present}, mmdet_cap=None)
    wheels, torch = wheel_commands(clean), _torch(facts)
    openmmlab = f'{[*wheels, *compile_commands(clean)][0]} && pip install "mmengine>=0.10.4,<1" "mmdet>=3.3,<4"'
    if wheels and WHEELS[torch][0] == '2.2.0':
        openmmlab += f' && {edit_command(facts)}'
    onedl_mmcv = [*wheel_commands(clean, onedl=True), *compile_commands(clean, onedl=True)][0]
    onedl = [f'{onedl_mmcv} && pip install onedl-mmengine onedl-mmdetection'] if torch >= (2, 4) else []
    return Finding(
        f'OpenMMLab and OneDL are mixed: {", ".join(f"{name} {facts.version(name)}" for name in present)}.',
        'Both write the files of the modules mmengine, mmcv and mmdet, so neither is complete.',
        tuple(
            f'pip uninstall -y {" ".join(present)} && {install}'
            for install in ([openmmlab, *onedl] if wheels else [*onedl, openmmlab])
        ),
    )


def _of_checks(facts: Facts, known: bool) -> Iterator[Finding]:
    """Failed checks; of those with the same cause the first one. ``known``: problems have been found already."""
    onedl = stack(facts) == 'onedl'
    compiling = compile_commands(facts, onedl)
    of_mmcv = {'MMCV': (*wheel_commands(facts, onedl), *compiling), 'COMPILE': compiling}
    seen: set[str] = set()
    for check, error in facts.checks.items():
        operators = check.startswith(('NMS', 'RoIAlign'))
        follows = known or seen if check == 'plug-in' else operators and (facts.has(*TRAPS) or stack(facts) == 'mixed')
        if error == 'ok' or follows:
            continue
        what, why, mend = f'The check "{check}" fails.', 'Training needs it.', of_mmcv['MMCV']
        if not operators:
            again = '-e .' if check == 'plug-in' else '--force-reinstall torch=={torch}'
            mend = (_fill(f'pip install {again}', facts),)
        missing = re.search(r"No module named '(\w+)", error)
        if missing:
            mend = (f'pip install {IMPORT_NAMES.get(missing[1], missing[1])}',)
        for pattern, *cause, command in (row.split(' | ') for row in CAUSES):
            if re.search(pattern, error) and (operators or command not in of_mmcv):
                (what, why), mend = cause, of_mmcv.get(command) or (_fill(command, facts),)
        if what not in seen:
            seen.add(what)
            yield Finding(_fill(what, facts), f'{why} {check}: {error}', mend)


def gather(timeout: float = 300.0) -> Facts:
    """Look at the interpreter that runs this.

    Args:
        timeout: Seconds after which the process with the checks is ended.
    """
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            version = metadata.version(name)
        except (metadata.PackageNotFoundError, KeyError):  # KeyError: the rest of an incomplete installation
            continue
        if version:
            versions[name] = version
    for module in ('torch', *OPENMMLAB):  # a source tree on the path instead of a distribution
        path, providers = _find(module), (module, ONEDL.get(module, ''), *(TRAPS if module == 'mmcv' else ()))
        if path and not any(name in versions for name in providers):
            versions[module] = _search(path.with_name('version.py'), r"^__version__ = '([^']+)'") or '0'
    torch, mmdet, mmcv = _find('torch'), _find('mmdet'), _find('mmcv')
    cap = _search(mmdet, r"^mmcv_maximum_version = '([^']+)'")
    operator = _search(mmdet, r'mmcv_version (<=?) digit_version\(mmcv_maximum_version\)')
    facts = Facts(
        python=platform.python_version(),
        versions=versions,
        system=f'{platform.system()} {platform.machine()}',
        executable=sys.executable,
        cuda=_search(torch and torch.with_name('version.py'), r"^cuda\b.*= '([\d.]+)'"),
        pkg_resources=_find('pkg_resources') is not None,
        mmdet_init=str(mmdet) if mmdet else None,
        mmdet_cap=operator + cap if cap and operator else None,
    )
    if not torch:
        return facts
    wanted = [check for check in CHECKS if check.startswith('loss') or (mmdet and (mmcv or check == 'plug-in'))]
    checks, gpu = run_checks(wanted, timeout)
    return replace(facts, checks=checks, gpu=gpu)


def _find(module: str) -> Path | None:
    """The file of a top-level module, found without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _search(file: Path | None, pattern: str) -> str | None:
    """The first group of the first match of a pattern in a file; None without a file or a match."""
    text = file.read_text(encoding='utf-8', errors='replace') if file and file.is_file() else ''
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else None


def run_checks(checks: Sequence[str], timeout: float) -> tuple[dict[str, str], str | None]:
    """Run checks in another process of this interpreter.

    Returns:
        The results: ``'ok'`` or what went wrong, without the checks on a GPU that is not there; the name of the GPU.
    """
    path = os.pathsep.join([*(entry or str(Path.cwd()) for entry in sys.path), str(HERE.parent)])
    command = [sys.executable, str(HERE / 'doctor.py'), '--run-checks', *checks]
    environment = {**os.environ, 'PYTHONPATH': path, 'PYTHONWARNINGS': 'ignore'}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
        out, errors, end = done.stdout, done.stderr, f'the process ended with exit code {done.returncode}'
        if done.returncode < 0:
            end = f'the process ended with {signal.Signals(-done.returncode).name}'
    except subprocess.TimeoutExpired as error:
        out, errors, end = error.stdout or b'', error.stderr or b'', f'no result within {timeout:g} s'
    lines = [line.split('\t', 2) for line in out.decode(errors='replace').splitlines() if line.startswith('doctor\t')]
    results = {checks[0]: 'started', **{name: value for _, name, value in lines}}
    gpu = results.pop('GPU', '') or None
    last = errors.decode(errors='replace').strip().splitlines()[-1:]
    for name in checks:
        if results.get(name) == 'started':
            results[name] = ': '.join([end, *last])
    return {name: results[name] for name in checks if name in results}, gpu


ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError)
ERRORS += (SyntaxError, SystemError, TypeError, ValueError)  # type: ignore[assignment]


def _say(name: str, value: str) -> None:
    print('doctor', name, ' '.join(value.split()), sep='\t', flush=True)  # noqa: T201


def _run_checks_here(checks: Sequence[str]) -> None:
    """The other process: report every check before and after it, so that a crash can be assigned to one."""
    import torch

    cuda = torch.cuda.is_available()
    try:
        _say('GPU', torch.cuda.get_device_name() if cuda else '')
    except RuntimeError as error:  # the checks on the GPU say more
        _say('GPU', f'unknown ({error})')
    for check in checks:
        device = 'cuda' if check.endswith('CUDA') else 'cpu'
        if device == 'cuda' and not cuda:
            continue
        _say(check, 'started')
        try:
            _run_check(check.split()[0], device)
        except ERRORS as error:
            _say(check, f'{type(error).__name__}: {error}'[:500])
        else:
            _say(check, 'ok')


def _run_check(what: str, device: str) -> None:
    import torch

    if what == 'loss':
        from bucketed_losses.functional import bucketed_rs_loss

        logits = torch.linspace(-2, 2, 32, device=device, requires_grad=True)
        loss = bucketed_rs_loss(logits, (torch.arange(32, device=device) % 8 == 0) * 0.5)
        (loss.ranking + loss.sorting).backward()
        if not (loss.ranking > 0 and logits.grad is not None and logits.grad.abs().sum() > 0):
            raise ValueError(f'bucketed_rs_loss returned {loss} without a gradient')
    elif what == 'NMS':
        from mmcv.ops import nms

        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
        kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1].tolist()
        if kept != [0, 2]:
            raise ValueError(f'mmcv.ops.nms kept the boxes {kept} instead of [0, 2]')
    elif what == 'RoIAlign':
        from mmcv.ops import roi_align

        rows = torch.arange(8.0, device=device).view(1, 1, 8, 1).expand(1, 1, 8, 8).contiguous()
        pooled = roi_align(rows, torch.tensor([[0.0, 0, 0, 4, 4]], device=device), (1, 1), 1.0, 0, 'avg', True).item()
        if abs(pooled - 1.5) > 1e-4:
            raise ValueError(f'mmcv.ops.roi_align returned {pooled} instead of 1.5')
    else:
        importlib.import_module('bucketed_losses.mmdet')


def render(facts: Facts, findings: Sequence[Finding], colours: bool = False) -> str:
    """The report as text."""

    def bold(text: str, colour: str = '1') -> str:
        return f'\033[{colour}m{text}\033[0m' if colours else text

    rows = {
        'Python': f'{facts.python}  {facts.executable}',
        'system': facts.system,
        'stack': stack(facts),
        'CUDA of torch': facts.cuda or 'none',
        'GPU': facts.gpu or 'none that torch can use',
        **facts.versions,
    }
    sections = [('Environment', rows), ('Checks', facts.checks)]
    lines = []
    for title, section in sections:
        lines += [bold(title), *(f'  {name:24}{value}' for name, value in section.items()), ''] if section else []
    for title, colour, kind in (('Problems', '1;31', True), ('Notes', '1', False)):
        of_kind = [finding for finding in findings if finding.problem is kind]
        lines += [bold(title, colour)] if of_kind else []
        for index, finding in enumerate(of_kind, 1):
            lines += [f'  {index}. {finding.what}', f'     {finding.why}']
            lines += [f'     {"or: " if later else "fix:"} {command}' for later, command in enumerate(finding.commands)]
        lines += [''] if of_kind else []
    problems = sum(finding.problem for finding in findings)
    lines.append(bold(f'Problems: {problems}', '1;31' if problems else '1;32'))
    return '\n'.join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the report."""
    parser.add_argument('--json', action='store_true', help='print the report as JSON')
    parser.add_argument('--run-checks', nargs='+', help=argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; the exit code is 0 without problems and 1 with problems."""
    parser = argparse.ArgumentParser('python -m bucketed_losses.doctor', description=(__doc__ or '').splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Print the report that the options ask for, and return the exit code."""
    if args.run_checks:
        _run_checks_here(args.run_checks)
        return 0
    facts = gather()
    findings = diagnose(facts)
    report = {'stack': stack(facts), 'facts': asdict(facts), 'findings': [asdict(finding) for finding in findings]}
    colours = sys.stdout.isatty() and 'NO_COLOR' not in os.environ
    print(json.dumps(report, indent=2) if args.json else render(facts, findings, colours))  # noqa: T201
    return int(any(finding.problem for finding in findings))


if __name__ == '__main__':
    # Run as a file, this folder comes first on the path, and its mmdet would hide MMDetection.
    sys.path[:] = [entry for entry in sys.path if Path(entry or '.').resolve() != HERE]
    sys.exit(main())
