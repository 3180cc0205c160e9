"""The doctor finds every trap in made-up environments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bucketed_losses import doctor
from bucketed_losses.doctor import Facts, Finding, diagnose, numbers, render, stack
from bucketed_losses.doctor.commands import ONEDL_WHEELS

OPENMMLAB = 'torch=2.1.2+cu121 numpy=1.26.4 mmengine=0.10.7 mmcv=2.1.0 mmdet=3.3.0 setuptools=80.10.2'
ONEDL = 'torch=2.12.0 numpy=2.2.6 onedl-mmengine=0.10.12 onedl-mmcv=2.3.6 onedl-mmdetection=3.5.1 setuptools=80.10.2'


def environment(versions: str, **facts: object) -> Facts:
    """Made-up facts. ``name=version`` sets a version, ``-name`` takes one away again."""
    installed: dict[str, str] = {}
    for word in versions.split():
        name, _, version = word.partition('=')
        installed.pop(name[1:]) if name.startswith('-') else installed.update({name: version})
    return Facts(versions=installed, **facts)  # type: ignore[arg-type]


def of_kind(facts: Facts, problem: bool) -> list[Finding]:
    return [finding for finding in diagnose(facts) if finding.problem is problem]


@pytest.mark.parametrize(
    ('versions', 'name'),
    [
        ('', 'core'),
        ('torch=2.13.0 mmengine=0.10.7', 'core'),
        (OPENMMLAB, 'openmmlab'),
        (f'{OPENMMLAB} mmcv=2.2.0', 'openmmlab + mmcv 2.2'),
        (ONEDL, 'onedl'),
        (f'{OPENMMLAB} onedl-mmcv=2.3.6', 'mixed'),
        (f'{OPENMMLAB} -mmcv onedl-mmcv=2.3.6', 'mixed'),
    ],
)
def test_stack_has_a_name(versions, name):
    facts = environment(versions)
    assert stack(facts) == name
    assert f'stack                   {name}\n' in render(facts, [])


@pytest.mark.parametrize(
    'facts',
    [
        environment('torch=2.1.0 numpy=1.26.4'),
        environment('torch=2.3.1 numpy=2.0.0', python='3.10.4'),
        environment(OPENMMLAB, cuda='12.1', mmdet_cap='<2.2.0', checks={'loss on CPU': 'ok', 'NMS on CPU': 'ok'}),
        environment(f'{OPENMMLAB} mmcv=2.2.0', mmdet_cap='<=2.2.0'),
        environment(ONEDL, python='3.13.0', cuda='13.0', gpu='NVIDIA H100', checks={'NMS on CUDA': 'ok'}),
    ],
    ids=['core', 'numpy 2', 'openmmlab', 'edited mmdet', 'onedl'],
)
def test_working_environments_have_no_problems(facts):
    assert of_kind(facts, problem=True) == []


EXT = "ModuleNotFoundError: No module named 'mmcv._ext'"
SYMBOL = 'ImportError: /site-packages/mmcv/_ext.so: undefined symbol: _ZN3c106detail'
CAP = dict(mmdet_cap='<2.2.0', mmdet_init='/site-packages/mmdet/__init__.py')
SED = 'sed -i '

# Facts, words of the problem, words of the first command that fixes it.
TRAPS = {
    'python': (environment('torch=2.4.1', python='3.9.18'), 'Python 3.9.18 is too old', 'python3.11'),
    'no torch': (environment(''), 'torch is not installed', 'pip install "torch>=2.1"'),
    'old torch': (environment('torch=2.0.1+cpu'), 'torch 2.0.1 is too old', 'torch>=2.1'),
    'numpy 2': (environment('torch=2.2.2 numpy=2.1.0'), 'torch 2.2.2 does not work with numpy 2.1.0', 'numpy<2'),
    'two mims': (environment('torch=2.4.1 openmim=0.3.9 onedl-mim=0.5.1'), 'onedl-mim are both', 'pip uninstall -y'),
    'no pkg_resources for MMEngine': (
        environment(f'{OPENMMLAB} setuptools=82.0.0', pkg_resources=False),
        'mmengine 0.10.7 needs the module pkg_resources',
        'setuptools>=77,<81',
    ),
    'no pkg_resources': (
        environment('torch=2.4.1 openmim=0.3.9 setuptools=82.0.0', pkg_resources=False),
        'openmim 0.3.9 needs the module pkg_resources',
        'setuptools>=77,<81',
    ),
    'setuptools 60': (
        environment('torch=2.4.1 setuptools=60.2.0', python='3.12.1'),
        'setuptools 60.2.0 does not work with Python 3.12.1',
        'setuptools>=77,<81',
    ),
    'no distutils': (
        environment('torch=2.13.0 mmengine=0.10.7', python='3.12.1'),
        'setuptools is not installed',
        'setuptools>=77,<81',
    ),
    'both families': (
        environment(f'{OPENMMLAB} onedl-mmcv=2.3.6', cuda='12.1'),
        'mmcv 2.1.0, mmdet 3.3.0, onedl-mmcv 2.3.6',
        'pip uninstall -y mmengine mmcv mmdet onedl-mmcv && pip install openmim',
    ),
    'mmdet with onedl-mmcv': (
        environment(f'{OPENMMLAB} -mmcv torch=2.12.0 onedl-mmcv=2.3.6', python='3.12.1', cuda='13.0'),
        'OpenMMLab and OneDL are mixed',
        'mim install onedl-mmcv --only-binary onedl-mmcv && pip install onedl-mmengine onedl-mmdetection',
    ),
    'mmcv-lite': (
        environment(f'{OPENMMLAB} -mmcv mmcv-lite=2.1.0', checks={'NMS on CPU': EXT}),
        'The module mmcv comes from mmcv-lite 2.1.0',
        'pip uninstall -y mmcv-lite && ',
    ),
    'mmcv-full': (environment(f'{OPENMMLAB} mmcv-full=1.7.2'), 'mmcv-full 1.7.2 and mmcv 2.1.0', 'mmcv mmcv-full && '),
    'no mmengine': (environment(f'{OPENMMLAB} -mmengine'), 'mmengine is not installed', '"mmengine>=0.10.4,<1"'),
    'no mmcv': (environment(f'{OPENMMLAB} -mmcv', cuda='11.8'), 'mmcv is not installed', 'mim install mmcv==2.1.0'),
    'no onedl-mmengine': (
        environment(f'{ONEDL} -onedl-mmengine'),
        'onedl-mmengine is not',
        'onedl-mmengine>=0.10.4,<1',
    ),
    'old mmengine': (environment(f'{OPENMMLAB} mmengine=0.9.1'), 'mmengine 0.9.1 is not supported', '>=0.10.4,<1'),
    'old mmcv': (environment(f'{OPENMMLAB} mmcv=2.0.1'), 'mmcv 2.0.1 is not supported', 'mim install mmcv==2.1.0'),
    'old mmdet': (environment(f'{OPENMMLAB} mmdet=3.2.0'), 'mmdet 3.2.0 is not supported', '"mmdet>=3.3,<4"'),
    'refused, wheel of 2.1.0': (
        environment(f'{OPENMMLAB} mmcv=2.2.0', **CAP),
        'mmdet 3.3.0 refuses mmcv 2.2.0: it requires mmcv <2.2.0',
        'mim install mmcv==2.1.0 --only-binary mmcv',
    ),
    'refused, no wheel of 2.1.0': (
        environment(f'{OPENMMLAB} torch=2.4.1 mmcv=2.2.0', **CAP),
        'refuses mmcv 2.2.0',
        SED,
    ),
    'refused, newer': (
        environment(f'{OPENMMLAB} mmcv=2.2.1', mmdet_cap='<=2.2.0'),
        'refuses mmcv 2.2.1',
        'mmcv==2.1.0',
    ),
    'no operators': (
        environment(OPENMMLAB, cuda='12.1', checks={'NMS on CPU': EXT, 'RoIAlign on CPU': EXT, 'plug-in': EXT}),
        'mmcv has no compiled operators',
        'pip uninstall -y mmcv && pip install openmim "click<8.3" && mim install mmcv==2.1.0 --only-binary mmcv',
    ),
    'another torch': (
        environment(f'{OPENMMLAB} torch=2.13.0', cuda='13.0', checks={'NMS on CPU': SYMBOL}),
        'The operators of mmcv do not fit torch 2.13.0',
        'build_mmcv.py mmcv==2.1.0 --out wheels/ && pip uninstall -y mmcv && pip install --no-deps wheels/mmcv-*.whl',
    ),
    'without CUDA': (
        environment(
            OPENMMLAB,
            cuda='12.1',
            gpu='NVIDIA A100',
            checks={
                'NMS on CPU': 'ok',
                'NMS on CUDA': 'RuntimeError: nms_impl: implementation for device cuda:0 not found.',
                'RoIAlign on CUDA': 'RuntimeError: roi_align_forward_impl: implementation for device cuda:0 not found.',
            },
        ),
        'mmcv is compiled without CUDA',
        'mim install mmcv==2.1.0',
    ),
    'other GPU': (
        environment(
            OPENMMLAB,
            cuda='12.1',
            gpu='NVIDIA H100',
            checks={
                'NMS on CUDA': 'RuntimeError: CUDA error: no kernel image is available for execution on the device'
            },
        ),
        'mmcv is not compiled for the GPU NVIDIA H100',
        'FORCE_CUDA=1 python tools/build_mmcv.py mmcv==2.1.0',
    ),
    'OpenCV': (
        environment(
            OPENMMLAB, checks={'NMS on CPU': 'ImportError: libGL.so.1: cannot open shared object file: No such'}
        ),
        'OpenCV needs graphics libraries',
        'pip install opencv-python-headless',
    ),
    'module of MMDetection': (
        environment(OPENMMLAB, checks={'plug-in': "ModuleNotFoundError: No module named 'sklearn.cluster'"}),
        'The check "plug-in" fails',
        'pip install scikit-learn',
    ),
    'torchvision is missing': (
        environment(OPENMMLAB, checks={'plug-in': "ModuleNotFoundError: No module named 'torchvision'"}),
        'The check "plug-in" fails',
        'pip install torchvision torch==2.1.2',
    ),
    'numpy ABI': (
        environment(
            OPENMMLAB, checks={'plug-in': 'ValueError: numpy.dtype size changed, may indicate incompatibility'}
        ),
        'A package is compiled for another numpy',
        'numpy<2',
    ),
    'torchvision': (
        environment(
            f'{OPENMMLAB} torchvision=0.20.0',
            checks={'plug-in': 'RuntimeError: operator torchvision::nms does not exist'},
        ),
        'torchvision 0.20.0 does not fit torch 2.1.2',
        'torch==2.1.2',
    ),
    'broken torch': (
        environment('torch=2.4.1+cu121', checks={'loss on CPU': 'the process ended with SIGSEGV'}),
        'The check "loss on CPU" fails',
        'pip install --force-reinstall torch==2.4.1',
    ),
}


@pytest.mark.parametrize(('facts', 'what', 'command'), TRAPS.values(), ids=TRAPS)
def test_problem_is_found_once_with_the_command_that_fixes_it(facts, what, command):
    (finding,) = of_kind(facts, problem=True)
    assert what in finding.what
    assert command in finding.commands[0]
    assert finding.why.endswith(('.', *facts.checks.values())) and '{' not in finding.what + finding.why
    assert f'  1. {finding.what}\n     {finding.why}\n     fix: {finding.commands[0]}\n' in render(facts, [finding])


@pytest.mark.parametrize(
    ('facts', 'what', 'command'),
    [
        (environment('torch=2.4.1'), 'MMDetection is not installed', None),
        (environment('torch=2.4.1', python='3.14.0'), 'Python 3.14.0 is newer', None),
        (environment('torch=2.4.1 numpy=1.24.0 lvis=0.5.3'), 'lvis 0.5.3 uses np.float', None),
        (environment('torch=2.4.1 numpy=2.4.6 cityscapesscripts=2.3.0'), 'uses np.in1d', None),
        (environment(f'{OPENMMLAB} torch=2.6.0'), 'mmengine 0.10.7 cannot load its checkpoints with torch 2.6.0', None),
        (environment(OPENMMLAB), 'torch 2.1.2 cannot load the checkpoints of MMEngine safely', None),
        (environment('opencv-python=4.11.0.86 opencv-python-headless=4.11.0.86'), 'are both installed', 'headless'),
        (environment(OPENMMLAB), 'torchvision is not installed', 'pip install torchvision torch==2.1.2'),
        (environment('openmim=0.3.9 click=8.3.0'), 'Slurm launcher of openmim 0.3.9 breaks', 'click<8.3'),
        (environment('onedl-mim=0.5.1 click=8.1.8'), 'onedl-mim 0.5.1 requires click 8.3', 'click>=8.3'),
        (environment('torch=2.4.1 setuptools=60.2.0'), 'setuptools 60.2.0 cannot build', 'setuptools>=77,<81'),
    ],
)
def test_note_is_made(facts, what, command):
    (note,) = (note for note in of_kind(facts, problem=False) if what in note.what)
    assert command in note.commands[0] if command else note.commands == ()


@pytest.mark.parametrize(
    'versions',
    [
        'torch=2.4.1 numpy=1.23.5 lvis=0.5.3 setuptools=80.10.2',
        'torch=2.4.1 numpy=2.3.0 cityscapesscripts=2.3.0',
        'torch=2.4.1 openmim=0.3.9 click=8.1.8',
        'torch=2.4.1 onedl-mim=0.5.1 click=8.3.0',
        'torch=2.4.1 opencv-python-headless=4.11.0.86',
    ],
)
def test_no_note_without_a_reason(versions):
    assert [note.what for note in of_kind(environment(versions), problem=False)] == ['MMDetection is not installed.']


@pytest.mark.parametrize('table', ['PROBLEMS', 'NOTES', 'CAUSES'])
def test_rows_of_the_tables_are_complete(table):
    for key, what, why, commands in getattr(doctor, table):
        commands = [commands] if table == 'CAUSES' else commands
        assert what.endswith('.') and why.endswith('.')
        assert len(commands) in {'PROBLEMS': (1, 2), 'NOTES': (0, 1, 2), 'CAUSES': (1,)}[table]
        names = set(doctor.DISTRIBUTIONS) | {'python', 'pkg_resources', 'MMDetection'}
        assert (
            table == 'CAUSES' or {word.strip('!').partition('<')[0].partition('>')[0] for word in key.split()} <= names
        )


WHEELS = [
    ('torch=2.1.2', '3.10.1', '12.1', ['mim install mmcv==2.1.0', 'dist/cu121/torch2.1.0/index.html']),
    ('torch=2.1.2', '3.11.1', None, ['mim install mmcv==2.1.0', 'dist/cpu/torch2.1.0/index.html']),
    ('torch=2.1.2', '3.12.1', None, []),
    ('torch=2.4.0', '3.11.1', '11.8', ['mim install mmcv==2.2.0', 'dist/cu118/torch2.4.0/index.html']),
    ('torch=2.4.0', '3.12.1', '12.1', ['dist/cu121/torch2.4.0/index.html']),  # mim's setuptools fails there
    ('torch=2.4.0', '3.11.1', '12.4', []),
    ('torch=2.4.0', '3.13.1', None, []),
    ('torch=2.5.0', '3.11.1', '12.1', []),
    ('', '3.11.1', None, []),
]


@pytest.mark.parametrize(('versions', 'python', 'cuda', 'parts'), WHEELS)
def test_wheels_of_openmmlab(versions, python, cuda, parts):
    facts = environment(versions, python=python, cuda=cuda)
    commands = doctor.wheel_commands(facts)
    assert len(commands) == len(parts)
    assert all(
        part in command and '--only-binary mmcv' in command for part, command in zip(parts, commands, strict=True)
    )
    assert doctor.wheel_commands(environment(versions, python=python, cuda=cuda, system='Darwin arm64')) == ()


def test_there_is_no_wheel_for_rocm():
    facts = environment('torch=2.1.0+rocm5.6 mmengine=0.10.7', python='3.11.1', gpu='AMD Instinct')
    assert doctor.wheel_commands(facts) == ()


@pytest.mark.parametrize(
    ('torch', 'python', 'cuda', 'there'),
    [
        ('2.12.0', '3.12.1', None, True),
        ('2.9.1', '3.10.1', '12.9', True),
        ('2.13.0', '3.12.1', '13.0', False),
        ('2.12.0', '3.11.1', None, False),
        ('2.1.2', '3.10.1', None, False),
        ('2.10.0', '3.10.1', '12.8', False),
    ],
)
def test_wheels_of_onedl(torch, python, cuda, there):
    commands = doctor.wheel_commands(environment(f'torch={torch}', python=python, cuda=cuda), onedl=True)
    assert [command.split(' && ')[-1] for command in commands] == there * [
        'mim install onedl-mmcv --only-binary onedl-mmcv'
    ]


def test_compiling_comes_last_and_fits_the_python():
    facts = environment(OPENMMLAB, checks={'NMS on CPU': EXT})
    ((*_, script, plain),) = (finding.commands for finding in of_kind(facts, problem=True))
    assert 'tools/build_mmcv.py mmcv==2.1.0' in script
    assert 'MMCV_WITH_OPS=1 pip install' in plain and '"setuptools<81"' in plain and '--no-build-isolation' in plain
    newer = doctor.compile_commands(environment(OPENMMLAB, python='3.13.0'))
    assert len(newer) == 1 and 'tools/build_mmcv.py' in newer[0], 'setup.py of mmcv 2.1.0 fails on Python 3.13'
    assert 'onedl-mmcv==2.3.6' in doctor.compile_commands(environment(ONEDL, python='3.13.0'), onedl=True)[1]


def test_wheel_of_mmcv_2_2_comes_with_the_edit_of_mmdet():
    facts = environment(f'{OPENMMLAB} torch=2.4.1', checks={'NMS on CPU': EXT}, **CAP)
    (finding,) = of_kind(facts, problem=True)
    assert 'mmcv==2.2.0' in finding.commands[0] and finding.commands[0].endswith(doctor.edit_command(facts))
    mixed = environment(f'{OPENMMLAB} torch=2.4.1 onedl-mmengine=0.10.12', **CAP)
    (finding,) = of_kind(mixed, problem=True)
    assert finding.commands[0].endswith(doctor.edit_command(facts))


def test_versions_compare_by_their_release_numbers():
    assert numbers('2.1.0+cu121') == numbers('2.1') == (2, 1)
    assert numbers('2.0.0rc4') == (2,)
    assert numbers('0.10.4') > numbers('0.9.9.post1')
    assert Facts(versions={'mmcv': '2.2.0'}).holds('mmcv<=2.2.0 mmcv>=2.1 !mmdet mmcv')
    assert not Facts(versions={'mmcv': '2.2.0'}).holds('mmcv<2.2.0')


def test_colours_change_nothing_else():
    facts = environment('')
    coloured = render(facts, diagnose(facts), colours=True)
    for code in ('\033[1;31m', '\033[1m', '\033[0m'):
        assert code in coloured
        coloured = coloured.replace(code, '')
    assert coloured == render(facts, diagnose(facts))


def test_the_page_lists_the_wheels_of_onedl_that_the_doctor_knows():
    page = (Path(__file__).resolve().parents[2] / 'docs/stacks.md').read_text().partition('## OneDL')[2]
    listed = {}
    for line in re.findall(r'^\| ((?:none|1\d\.).*) \| (2\..+?) \|$', page, re.MULTILINE):
        minors = tuple(int(version.removeprefix('2.')) for version in line[1].split(', '))
        for cuda in ['cpu'] if line[0].startswith('none') else line[0].split(', '):
            listed[cuda if cuda == 'cpu' else f'cu{cuda.replace(".", "")}'] = minors
    assert listed == ONEDL_WHEELS
