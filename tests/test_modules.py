"""The torch-only modules: the functions with their hyper-parameters kept, importable where MMDetection is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bucketed_losses import functional, modules

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[1]


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
