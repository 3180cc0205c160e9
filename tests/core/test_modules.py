"""The torch-only modules: the functions with their hyper-parameters kept, importable where MMDetection is not."""

from __future__ import annotations

import copy
import functools
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cases import random_case
from gloo import on_processes

from bucketed_losses import functional, modules

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ('module', 'function', 'delta'),
    [
        (modules.APLoss, functional.ap_loss, 1.0),
        (modules.BucketedAPLoss, functional.bucketed_ap_loss, 1.0),
        (modules.RSLoss, functional.rs_loss, 0.5),
        (modules.BucketedRSLoss, functional.bucketed_rs_loss, 0.5),
    ],
)
def test_modules_are_the_functions(module, function, delta):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 3, generator=generator)
    targets = torch.where(torch.rand(200, 3, generator=generator) < 0.1, 0.7, 0.0)
    positives = (targets.flatten() > 0).nonzero().squeeze(1)
    for width in (delta, 0.2):
        loss = module() if width == delta else module(delta=width)
        assert f'delta={width}' in repr(loss) and not list(loss.parameters())
        a, b = (logits.clone().requires_grad_() for _ in range(2))
        got, want = loss(a, targets, positives=positives), function(b, targets, width)
        parts = [got] if torch.is_tensor(got) else list(got)
        expected = [want] if torch.is_tensor(want) else list(want)
        for x, y in zip(parts, expected, strict=True):
            assert torch.equal(x, y)
        sum(parts).backward()
        sum(expected).backward()
        assert torch.equal(a.grad, b.grad) and a.grad.abs().sum() > 0


@pytest.mark.medium
def test_importable_without_mmdetection():
    code = """
import sys
for name in ('mmdet', 'mmcv', 'mmengine', 'numpy'):
    sys.modules[name] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == 'mmdet' else find(name, *a)
from bucketed_losses.modules import BucketedRSLoss
import torch
ranking, sorting = BucketedRSLoss()(torch.randn(10, requires_grad=True), torch.eye(10)[0])
(ranking + sorting).backward()
"""
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_alrp_and_dr_are_the_functions():
    logits = torch.linspace(-1, 1, 20)
    targets = torch.where(torch.arange(20) % 4 == 0, 0.8, 0.0)
    errors = torch.full((5,), 0.3, requires_grad=True)
    assert modules.aLRPLoss(delta=0.5)(logits, targets, errors) == functional.alrp_loss(logits, targets, errors, 0.5)
    assert modules.DRLoss(margin=0.2, scale=2.0)(logits, targets) == functional.dr_loss(
        logits, targets, margin=0.2, scale=2.0
    )


@pytest.mark.parametrize('name', ['RSLoss', 'BucketedRSLoss'])
def test_the_total_of_rs_loss_can_be_trained_on(name):
    logits = torch.linspace(-1, 1, 20).requires_grad_()
    targets = torch.where(torch.arange(20) % 4 == 0, torch.linspace(0.9, 0.1, 20), 0.0)
    parts = getattr(modules, name)()(logits, targets)
    assert parts.total == parts.ranking + parts.sorting
    parts.total.backward()
    assert logits.grad.abs().sum() > 0


def test_positives_and_group_are_keyword_only():
    logits, targets, positives = torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0])
    for name in ('ap_loss', 'bucketed_ap_loss', 'rs_loss', 'bucketed_rs_loss'):
        with pytest.raises(TypeError, match='positional'):
            getattr(functional, name)(logits, targets, 0.5, positives)
    with pytest.raises(TypeError, match='positional'):
        modules.APLoss()(logits, targets, positives)


@pytest.mark.parametrize('delta', [-1.0, float('nan'), 1e-16])
def test_a_bad_delta_is_refused_by_the_constructor(delta):
    with pytest.raises(ValueError, match='delta must be'):
        modules.APLoss(delta=delta)


def test_bad_settings_of_dr_loss_are_refused_by_the_constructor():
    with pytest.raises(ValueError, match='smoothness must be above 0, got 0'):
        modules.DRLoss(smoothness=0)


def test_a_group_is_named():
    with pytest.raises(ValueError, match=r"group must be 'local', 'world' or a torch\.distributed\.ProcessGroup"):
        modules.APLoss(group='everyone')
    with pytest.raises(ValueError, match="got 'everyone'"):
        functional.ap_loss(torch.zeros(2), torch.zeros(2), group='everyone')
    for call in (modules.APLoss, functools.partial(functional.ap_loss, torch.zeros(2), torch.zeros(2))):
        with pytest.raises(TypeError, match='ProcessGroup, got 3'):
            call(group=3)
        if dist.is_available():
            with pytest.raises(ValueError, match='not a member of the group'):
                call(group=dist.GroupMember.NON_GROUP_MEMBER)


@pytest.mark.parametrize('group', ['local', 'world', None])
def test_one_process_ranks_alone(group):
    logits, targets = torch.linspace(-1, 1, 20), torch.where(torch.arange(20) % 4 == 0, 0.8, 0.0)
    assert modules.APLoss(group=group)(logits, targets) == functional.ap_loss(logits, targets)


def run_modules_built_before():
    """Modules that were built, copied and saved before and after ``init_process_group``; the values of each."""
    logits, targets = random_case(dist.get_rank(), 6, 40)
    subgroup = dist.new_group([0, 1])
    values = {name: BUILT_BEFORE[name](logits, targets) for name in BUILT_BEFORE}
    for name, group in (('subgroup', subgroup), ('WORLD', dist.group.WORLD), ('local', 'local')):
        module = modules.APLoss(group=group)
        values[f'{name} built after'] = module(logits, targets)
        values[f'{name} copied'] = copy.deepcopy(torch.nn.Sequential(module))[0](logits, targets)
        saved = io.BytesIO()
        torch.save(module, saved)
        saved.seek(0)
        loaded = torch.load(saved, weights_only=False)
        if name == 'subgroup':
            with pytest.raises(RuntimeError, match='was not saved'):
                loaded(logits, targets)
            loaded.group = subgroup
        values[f'{name} saved'] = loaded(logits, targets)
    return values


# `torch.distributed.group.WORLD` is None until the processes are connected.
BUILT_BEFORE = {
    'WORLD built before': modules.APLoss(group=dist.group.WORLD if dist.is_available() else None),
    'world built before': modules.APLoss(group='world'),
    'local built before': modules.APLoss(),
}


@pytest.mark.medium
@pytest.mark.skipif(not dist.is_available(), reason='PyTorch was built without distributed support')
def test_the_group_is_resolved_at_the_call():
    shards = [random_case(rank, 6, 40) for rank in range(2)]
    logits, targets = (torch.cat(parts) for parts in zip(*shards, strict=True))
    together = functional.ap_loss(logits, targets)
    for values, shard in zip(on_processes(2, run_modules_built_before), shards, strict=True):
        for name, value in values.items():
            torch.testing.assert_close(value, functional.ap_loss(*shard) if 'local' in name else together, msg=name)
