"""The commands that install, compile or edit what an environment lacks."""

from __future__ import annotations

import shlex

from .facts import ONEDL, TRAPS, Facts, numbers

WHEELS = {(2, 1): ('2.1.0', 11), (2, 2): ('2.2.0', 12), (2, 3): ('2.2.0', 12), (2, 4): ('2.2.0', 12)}
"""OpenMMLab's wheels of mmcv for Linux on x86_64: torch to the version of mmcv and the newest Python 3."""
WHEELS_CUDA = ('cpu', 'cu118', 'cu121')
ONEDL_WHEELS = dict(
    cpu=(4, 5, 8, 9, 10, 12), cu118=(4, 5), cu124=(4, 5), cu126=(8, 12), cu128=(8,), cu129=(8, 9, 10), cu130=(12,)
)
"""OneDL's wheels of mmcv for Linux on x86_64: CUDA of torch to the minor versions of torch 2."""
EDIT = 's/mmcv_version < digit_version(mmcv_maximum_version)/mmcv_version <= digit_version(mmcv_maximum_version)/'
SETUPTOOLS = 'pip install "setuptools>=77,<81"'


def wheel_commands(facts: Facts, onedl: bool = False) -> tuple[str, ...]:
    """Commands that install a prebuilt mmcv for this torch, CUDA and Python; none if there is no such wheel."""
    torch, minor = torch_release(facts), numbers(facts.python)[1]
    cuda = f'cu{facts.cuda.replace(".", "")}' if facts.cuda else 'cpu'
    if facts.system != 'Linux x86_64' or '+rocm' in facts.version('torch'):
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
    if not onedl and facts.holds('python>=3.13'):  # setup.py of mmcv fails there, and only the script works around it
        return (script,)
    return script, f'{_uninstall(facts)}{tools}MMCV_WITH_OPS=1 {force}pip install {options} {source}'


def edit_command(facts: Facts) -> str:
    """The command that makes MMDetection accept mmcv 2.2.0."""
    return f'sed -i {shlex.quote(EDIT)} {shlex.quote(facts.mmdet_init or "mmdet/__init__.py")}'


def torch_release(facts: Facts) -> tuple[int, int]:
    """The first two numbers of torch's version; zeros without torch."""
    major, minor, *_ = (*numbers(facts.version('torch')), 0, 0)
    return major, minor


def _uninstall(facts: Facts) -> str:
    installed = facts.has('mmcv', ONEDL['mmcv'], *TRAPS)
    return f'pip uninstall -y {" ".join(installed)} && ' if installed else ''
