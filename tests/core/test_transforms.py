"""Losses that PyTorch compiles, exports or transforms; what it cannot do is an error that says what to do instead."""

from __future__ import annotations

import operator

import pytest
import torch
from cases import LOSSES, close_in_float64, random_case
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from bucketed_losses import functional as F

EACH = pytest.mark.parametrize('name', sorted(LOSSES))
COMPILER = pytest.mark.skipif(
    torch.__version__ < (2, 9), reason=f'the compiler of torch {torch.__version__} compiles each size again, or fails'
)


def case(num_pos, num_neg=40):
    logits, targets = random_case(num_pos, num_pos, num_neg, 3, dtype=torch.float32)
    return logits, targets, (targets > 0).nonzero().squeeze(1)


def total(loss, delta, **arguments):
    """A loss as one number, a function of logits, targets and positives."""

    def value(logits, targets, positives):
        result = loss(logits, targets, delta, positives=positives, **arguments)
        return result.total if isinstance(result, tuple) else result

    return value


def value_and_grad(function, logits, *arguments):
    logits = logits.clone().requires_grad_()
    value = function(logits, *arguments)
    value.sum().backward()
    return value.detach(), logits.grad


@COMPILER
@EACH
@pytest.mark.parametrize('delta', [0.0, 0.5])
@pytest.mark.parametrize('backend', ['eager', pytest.param('aot_eager', marks=pytest.mark.medium)])
def test_it_compiles_as_one_graph_for_all_sizes(name, delta, backend):
    """Dynamic numbers of logits and of positives; value and gradient are those without a compiler."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    function = total(LOSSES[name], delta)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for num_pos in (5, 9, 70):
        expected = value_and_grad(function, *case(num_pos))
        for got, wanted in zip(value_and_grad(compiled, *case(num_pos)), expected, strict=True):
            close_in_float64(got, wanted, rtol=1e-6, atol=1e-7)
        graphs.append(counter.frame_count)
    if backend == 'eager':  # ahead-of-time compilation may make a size dynamic only when it changes
        assert graphs[0] == graphs[-1], 'another size compiled the loss again'


@COMPILER
@pytest.mark.parametrize('name', ['alrp_loss', 'interpolated AP'])
def test_losses_by_other_ways_compile(name):
    """They have no algorithm of their own for an accelerator."""
    torch._dynamo.reset()
    logits, targets, positives = case(9)

    def function(logits, targets, positives):
        if name == 'alrp_loss':
            return sum(F.alrp_loss(logits, targets, targets[positives], positives=positives)[:2])
        return F.ap_loss(logits, targets, interpolated=True, positives=positives)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend='eager')
    expected = value_and_grad(function, logits, targets, positives)
    for got, wanted in zip(value_and_grad(compiled, logits, targets, positives), expected, strict=True):
        close_in_float64(got, wanted, rtol=1e-6, atol=1e-7)


@COMPILER
@EACH
@pytest.mark.parametrize('grouped', [False, True])
def test_a_batch_without_positives_compiles(name, grouped):
    torch._dynamo.reset()
    logits = torch.randn(30, requires_grad=True)
    groups = dict(groups=torch.arange(30) % 4, num_groups=4) if grouped else {}
    function = total(LOSSES[name], 0.5, **groups)
    loss = torch.compile(function, fullgraph=True, backend='aot_eager')(
        logits, torch.zeros(30), torch.zeros(0, dtype=torch.int64)
    )
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.eq(0).all() and grad.eq(0).all()


@COMPILER
@EACH
@pytest.mark.medium
def test_the_merge_tree_compiles(name):
    torch._dynamo.reset()
    function = total(LOSSES[name], 0.5)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend='eager')
    for num_pos in (2100, 2300):
        for got, wanted in zip(
            value_and_grad(compiled, *case(num_pos)), value_and_grad(function, *case(num_pos)), strict=True
        ):
            close_in_float64(got, wanted, rtol=1e-6, atol=1e-7)


@COMPILER
@EACH
@pytest.mark.parametrize('delta', [0.0, 0.5])
def test_groups_compile(name, delta):
    torch._dynamo.reset()
    logits, targets, positives = case(20)
    function = total(LOSSES[name], delta, groups=torch.arange(len(logits)) % 4, num_groups=4)
    compiled = torch.compile(function, fullgraph=True, backend='eager')
    expected = value_and_grad(function, logits, targets, positives)
    for got, wanted in zip(value_and_grad(compiled, logits, targets, positives), expected, strict=True):
        close_in_float64(got, wanted, rtol=1e-6, atol=1e-7)


@COMPILER
@pytest.mark.parametrize(
    ('name', 'num_pos', 'delta', 'grouped'),
    [
        pytest.param(name, *case, marks=pytest.mark.slow if name != 'bucketed_rs_loss' and case[0] == 20 else ())
        for name in LOSSES
        for case in [(20, 0.5, False), (20, 0.0, False), (20, 0.5, True), (2100, 0.5, False)]
    ],
)
@pytest.mark.medium
def test_compiled_it_searches_no_part_of_a_tensor(name, delta, grouped, num_pos):
    """On CUDA, inductor of torch 2.11 searches such a part from the first element of the whole tensor."""
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()
    searched = []

    def compiler(graph, inputs):
        for node in graph.graph.find_nodes(op='call_function', target=torch.ops.aten.searchsorted.Tensor):
            while (keys := node.args[0]).target in VIEWS_OF_ALL:
                node = keys
            searched.append((keys.args[0] if keys.target is operator.getitem else keys).target)
        return graph.forward

    logits, targets, positives = case(num_pos)
    groups = dict(groups=torch.arange(len(logits)) % 4, num_groups=4) if grouped else {}
    function = total(LOSSES[name], delta, **groups)
    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    value_and_grad(torch.compile(function, fullgraph=True, dynamic=True, backend=backend), logits, targets, positives)
    aten = torch.ops.aten
    parts = {aten.slice.Tensor, aten.select.int, aten.as_strided.default, aten.split.Tensor, aten.unbind.int}
    assert searched and not parts & set(searched)


_NAMES = ('view', 'unsqueeze', 'alias', 'expand', 'permute', 'squeeze', 't')
VIEWS_OF_ALL = [getattr(torch.ops.aten, name).default for name in _NAMES]


@pytest.mark.slow
@COMPILER
@EACH
def test_inductor_compiles_it(name):
    """With C++ kernels on a CPU."""
    torch._dynamo.reset()
    function = total(LOSSES[name], 0.5)
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for num_pos in (5, 70):
        for got, wanted in zip(
            value_and_grad(compiled, *case(num_pos)), value_and_grad(function, *case(num_pos)), strict=True
        ):
            close_in_float64(got, wanted, rtol=1e-5, atol=1e-6)


def test_func_grad_of_dr_loss():
    logits, targets, _ = case(9)
    _, expected = value_and_grad(F.dr_loss, logits, targets)
    close_in_float64(torch.func.grad(F.dr_loss)(logits, targets), expected, rtol=1e-6, atol=1e-8)


@EACH
@pytest.mark.parametrize('delta', [0.0, 0.5])
@pytest.mark.parametrize('num_pos', [0, 1, 20])
def test_func_grad(name, delta, num_pos):
    function = total(LOSSES[name], delta)
    _, expected = value_and_grad(function, *case(num_pos))
    grad, value = torch.func.grad_and_value(function)(*case(num_pos))
    close_in_float64(grad, expected, rtol=1e-6, atol=1e-7)
    close_in_float64(value, function(*case(num_pos)), rtol=1e-6, atol=0)


@EACH
@pytest.mark.parametrize('transform', [lambda f: f, torch.func.grad], ids=['vmap', 'vmap of grad'])
def test_vmap_names_the_alternative(name, transform):
    logits, targets, positives = case(5)
    function = transform(total(LOSSES[name], 0.5))
    with pytest.raises(RuntimeError, match=r'do not support torch.vmap; .* groups and num_groups'):
        torch.vmap(function, in_dims=(0, None, None))(torch.stack([logits, logits]), targets, positives)


@EACH
@pytest.mark.parametrize('mapped', ['positives', 'ious', 'ignored', 'groups'])
def test_vmap_over_other_tensors_names_the_alternative(name, mapped):
    logits, targets, positives = case(5)
    ious = targets.take(positives)
    none = torch.zeros(len(logits), dtype=torch.bool)
    calls = {
        'positives': (lambda p: LOSSES[name](logits, targets, positives=p), positives),
        'ious': (lambda i: LOSSES[name](logits, F.SparseTargets(positives, i)), ious),
        'ignored': (lambda i: LOSSES[name](logits, F.SparseTargets(positives, ious, i)), none),
        'groups': (lambda g: LOSSES[name](logits, targets, groups=g, num_groups=1), none.long()),
    }
    function, values = calls[mapped]
    with pytest.raises(RuntimeError, match=r'do not support torch.vmap; .* groups and num_groups'):
        torch.vmap(function)(torch.stack([values, values]))


@EACH
@pytest.mark.skipif(torch.__version__ < (2, 10), reason=f'torch {torch.__version__} cannot export RS Loss')
def test_export(name):
    """Of a module whose output is the loss, for a range of sizes."""

    class Loss(torch.nn.Module):
        def forward(self, logits, targets, positives):
            return total(LOSSES[name], 0.5)(logits, targets, positives)

    sizes = [{0: torch.export.Dim('n', min=4, max=2**15 - 100)}] * 2 + [{0: torch.export.Dim('p', min=2, max=60)}]
    program = torch.export.export(Loss(), case(20), dynamic_shapes=tuple(sizes), strict=True)
    for num_pos in (3, 50):
        expected = Loss()(*case(num_pos))
        close_in_float64(program.module()(*case(num_pos)), expected, rtol=1e-6, atol=0)


@pytest.mark.usefixtures('fake_cuda')
@pytest.mark.parametrize(
    'loss',
    [
        *LOSSES.values(),
        lambda logits, *args, **kw: F.alrp_loss(logits, *args, torch.zeros(3, device=logits.device), **kw),
        lambda *args, **kw: F.ap_loss(*args, interpolated=True, **kw),
    ],
)
def test_deterministic_algorithms_on_cuda_are_refused_by_name(loss, monkeypatch):
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    monkeypatch.setattr(torch, 'is_deterministic_algorithms_warn_only_enabled', lambda: False)
    with FakeTensorMode():
        logits, targets = torch.empty(30, device='cuda'), torch.empty(30, device='cuda')
        with pytest.raises(RuntimeError, match=r'torch.use_deterministic_algorithms\(True, warn_only=True\)'):
            loss(logits, targets, positives=torch.empty(3, dtype=torch.int64, device='cuda'))
        monkeypatch.setattr(torch, 'is_deterministic_algorithms_warn_only_enabled', lambda: True)
        if loss in LOSSES.values():
            loss(logits, targets, positives=torch.empty(3, dtype=torch.int64, device='cuda'))


@EACH
def test_deterministic_algorithms_on_a_cpu(name):
    function = total(LOSSES[name], 0.5)
    expected = value_and_grad(function, *case(20))
    torch.use_deterministic_algorithms(True)
    try:
        for got, wanted in zip(value_and_grad(function, *case(20)), expected, strict=True):
            assert torch.equal(got, wanted)
    finally:
        torch.use_deterministic_algorithms(False)
