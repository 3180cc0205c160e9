"""Memory and synchronisation are properties of the code, so they are asserted, not timed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from cases import LOSSES, REPLACEMENTS
from operations import CountOperations
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from bucketed_losses.core.identity_update import identity_update
from bucketed_losses.core.positives import rank_positives

pytestmark = pytest.mark.stack


EVERY = LOSSES | REPLACEMENTS


def step(loss, logits, targets):
    result = loss(logits, targets)
    (sum(result) if isinstance(result, tuple) else result).backward()


def synthetic(num_pos, num_neg):
    """The paper's synthetic data (S.3.2)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_pos + num_neg, generator=generator) + 1
    logits[:num_pos] -= 2
    targets = torch.zeros(num_pos + num_neg)
    targets[:num_pos] = torch.rand(num_pos, generator=generator).clamp(min=0.01)
    return logits.requires_grad_(), targets


@pytest.mark.parametrize('name', sorted(EVERY))
@pytest.mark.parametrize('num_pos', [1, 10, 1000, 1025, 5000, 50_000])
def test_no_tensor_is_larger_than_linear(name, num_pos):
    num_neg = 200_000
    logits, targets = synthetic(num_pos, num_neg)
    with CountOperations() as mode:
        step(EVERY[name], logits, targets)
    assert mode.largest <= max(8 * (num_neg + num_pos), 4 * 2**20)


@pytest.mark.parametrize('name', sorted(EVERY))
def test_number_of_operations_does_not_grow_with_the_positives(name):
    """No loop over positives: only the bits of the sorting term may add operations, logarithmically many."""
    counts = []
    for num_pos in (10_000, 160_000):
        logits, targets = synthetic(num_pos, 1000)
        with CountOperations() as mode:
            step(EVERY[name], logits, targets)
        counts.append(len(mode.names))
    assert counts[1] <= 1.5 * counts[0]


@pytest.mark.usefixtures('fake_cuda')
@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('num_pos', [100, 2000])
@pytest.mark.parametrize('delta', [0.0, 0.5])
def test_the_core_never_synchronises(exact, num_pos, delta):
    """On fake CUDA tensors every host synchronisation raises."""
    with FakeTensorMode():
        positives = rank_positives(*torch.empty(2, num_pos, device='cuda'), delta, sort=True)
        update = identity_update(positives, [torch.empty(30_000, device='cuda')], delta, exact)
    assert [grad.shape for grad in update.negative_grads] == [(30_000,)]
    assert update.positive_grads.shape == (2, num_pos)
    assert update.ranking.device.type == 'cuda'


@pytest.mark.usefixtures('fake_cuda')
def test_fake_tensors_do_notice_a_synchronisation():
    """The test above can fail: reading a value, a mask as index and a bincount all raise."""
    for synchronise in (
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.bincount(x.long()),
    ):
        with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            synchronise(torch.empty(8, device='cuda'))


@pytest.mark.medium
@pytest.mark.parametrize('name', ['bucketed_rs_loss', 'rs_loss'])
def test_memory_is_linear_at_ten_million_logits(name):
    """Peak memory of a whole process, above that of the one with a tenth of the logits, per logit."""
    program = (
        'import resource, sys, torch\n'
        'from bucketed_losses import functional as F\n'
        'n = int(sys.argv[1])\n'
        'torch.manual_seed(0)\n'
        'x = torch.randn(n).requires_grad_(); t = torch.zeros(n); t[:2000] = 0.5\n'
        f'sum(F.{name}(x, t)).backward()\n'
        'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n'
    )
    small, large = (
        int(subprocess.run([sys.executable, '-c', program, str(n)], check=True, capture_output=True, text=True).stdout)
        for n in (1_000_000, 10_000_000)
    )
    # Input, targets and gradient are 12 bytes; int64 indices and float32/64 working arrays the rest.
    assert (large - small) / 9_000_000 < 120
