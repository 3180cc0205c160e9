"""The losses on a GPU, against the CPU's algorithm; torch and pytest suffice.

``LOSSES_DEVICE=cpu`` runs these tests on a CPU in place of a GPU, to test the tests.
"""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext

import pytest
import torch
from cases import LOSSES

from bucketed_losses import functional as F
from bucketed_losses.core.devices import as_on_an_accelerator

DEVICE = os.environ.get('LOSSES_DEVICE', 'cuda')
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == 'cuda' and not torch.cuda.is_available(), reason='needs a CUDA device'),
]
EACH = pytest.mark.parametrize('name', sorted(LOSSES))


def synthetic(num_pos, num_neg, dtype=torch.float32):
    """The paper's synthetic data (S.3.2) with some ignored entries, shuffled."""
    generator = torch.Generator().manual_seed(num_pos)
    logits = torch.randn(num_pos + num_neg, generator=generator, dtype=dtype) + 1
    logits[:num_pos] -= 2
    targets = torch.zeros(num_pos + num_neg, dtype=dtype)
    targets[:num_pos] = torch.rand(num_pos, generator=generator, dtype=dtype).clamp(min=0.01)
    targets[-num_neg // 10 :] = -1
    order = torch.randperm(len(logits), generator=generator)
    return logits[order], targets[order]


def value_and_grad(loss, logits, targets, **arguments):
    """The sum of all values and the gradient, on the CPU in float64."""
    logits = logits.clone().requires_grad_()
    accelerated = as_on_an_accelerator() if DEVICE == 'cpu' and arguments.pop('on_device', False) else nullcontext()
    arguments.pop('on_device', None)
    with accelerated:
        result = loss(logits, targets, **arguments)
        value = (result.total if isinstance(result, tuple) else result).sum()
        value.backward()
    return value.detach().cpu().double(), logits.grad.cpu().double()


def on_device(*tensors):
    return [tensor.to(DEVICE) for tensor in tensors]


@EACH
@pytest.mark.parametrize('num_pos', [1, 30, 2048, 3000, 20_000, 60_000])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('delta', [0.0, 0.5])
def test_it_equals_the_cpu(name, num_pos, dtype, delta):
    logits, targets = synthetic(num_pos, 100_001, dtype)
    expected = value_and_grad(LOSSES[name], logits, targets, delta=delta)
    got = value_and_grad(LOSSES[name], *on_device(logits, targets), delta=delta, on_device=True)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-8)
    assert got[1][targets < 0].eq(0).all()


@EACH
@pytest.mark.parametrize('num_pos', [50, 5000])
def test_groups_and_sparse_targets(name, num_pos):
    logits, targets = synthetic(num_pos, 50_001)
    groups = torch.arange(len(logits)) % 5
    calls = [value_and_grad(LOSSES[name], logits[groups == group], targets[groups == group]) for group in range(5)]
    positives = (targets > 0).nonzero().squeeze(1)
    sparse = F.SparseTargets(*on_device(positives, targets[positives], targets < 0))
    x, own = on_device(logits, groups)
    value, grad = value_and_grad(LOSSES[name], x, sparse, groups=own, num_groups=5, on_device=True)
    torch.testing.assert_close(value, sum(call[0] for call in calls), rtol=1e-6, atol=1e-6)
    for group, (_, expected) in enumerate(calls):
        torch.testing.assert_close(grad[groups == group], expected, rtol=1e-5, atol=1e-7)


@EACH
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    logits, targets = synthetic(300, 10_000, dtype)
    expected = value_and_grad(LOSSES[name], logits, targets)
    got = value_and_grad(LOSSES[name], *on_device(logits, targets), on_device=True)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[1], expected[1], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.skipif(DEVICE != 'cuda', reason='inductor searches and sums in another way on CUDA than on a CPU')
@pytest.mark.parametrize(
    ('name', 'num_pos'), [(name, 300) for name in sorted(LOSSES)] + [('rs_loss', 3000), ('bucketed_rs_loss', 3000)]
)
def test_compiled_it_equals_the_cpu(name, num_pos):
    torch._dynamo.reset()
    logits, targets = synthetic(num_pos, 100_001, torch.float64)
    expected = value_and_grad(LOSSES[name], logits, targets)
    x, t = on_device(logits, targets)
    compiled = torch.compile(LOSSES[name], fullgraph=True, dynamic=True)
    got = value_and_grad(compiled, x, t, positives=(t > 0).nonzero().squeeze(1))
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-9, atol=1e-13)


@pytest.mark.skipif(DEVICE != 'cuda', reason='records a CUDA graph')
@EACH
def test_a_cuda_graph_replays_it(name):
    """Nothing waits and all sizes follow from those of the tensors, so that a graph holds the loss and its gradient."""
    logits, targets = on_device(*synthetic(300, 100_000))
    positives = (targets > 0).nonzero().squeeze(1)
    leaf = logits.clone().requires_grad_()

    def step():
        leaf.grad = None
        result = LOSSES[name](leaf, targets, positives=positives)
        value = result.total if isinstance(result, tuple) else result
        value.backward()
        return value

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()
    with torch.no_grad():
        leaf.copy_(logits.flip(0) * 2)  # other logits in the same memory
    graph.replay()
    expected = value_and_grad(LOSSES[name], leaf.detach(), targets)
    torch.testing.assert_close(value.detach().cpu().double(), expected[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(leaf.grad.cpu().double(), expected[1], rtol=1e-5, atol=1e-8)


@pytest.mark.skipif(DEVICE != 'cuda', reason='counts the waits for CUDA')
@EACH
@pytest.mark.parametrize('known', [False, True], ids=['found', 'known'])
@pytest.mark.parametrize('num_pos', [2000, 5000])
def test_it_waits_as_often_as_counted(name, known, num_pos):
    """CUDA's own count: every wait of the host warns in this mode."""
    logits, targets = on_device(*synthetic(num_pos, 100_000))
    positives = (targets > 0).nonzero().squeeze(1) if known else None
    logits.requires_grad_()

    def step():
        result = LOSSES[name](logits, targets, positives=positives)
        (result.total if isinstance(result, tuple) else result).backward()

    step()
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter('always')
            step()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert len([wait for wait in waits if 'synchroniz' in str(wait.message)]) == (0 if known else 1)
