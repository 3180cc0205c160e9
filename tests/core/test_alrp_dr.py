"""aLRP and DR Loss: loops over their definitions, properties, edge cases, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from alrp_dr_reference import MINUS, loop_alrp, loop_dr
from gloo import CountCollectives, on_processes
from hypothesis import given
from hypothesis import strategies as st
from synchronisations import CountSynchronisations
from torch import Tensor

from bucketed_losses.functional import alrp_loss, dr_loss

pytestmark = pytest.mark.stack

DELTAS = (0.0, 0.3, 1.0)


def case(num=60, positives=9, seed=0, ties=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num, generator=generator, dtype=dtype)
    if ties:
        logits = (logits * 2).round() / 2
    targets = torch.zeros(num, dtype=dtype)
    targets[torch.randperm(num, generator=generator)[:positives]] = 0.7
    targets[torch.randperm(num, generator=generator)[:5]] = -1
    errors = torch.rand(int((targets > 0).sum()), generator=generator, dtype=dtype)
    return logits, targets, errors


def gradients(logits, targets, errors, delta, **kwargs):
    x, e = logits.clone().requires_grad_(), errors.clone().requires_grad_()
    parts = alrp_loss(x, targets, e, delta, **kwargs)
    (g,) = torch.autograd.grad(parts.classification, x, retain_graph=True)
    (d,) = torch.autograd.grad(parts.localization, e)
    return parts, g, d


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('delta', DELTAS)
@pytest.mark.parametrize('seed', range(3))
def test_alrp_equals_loops(delta, seed, ties):
    logits, targets, errors = case(seed=seed, ties=ties)
    classification, localization, grad, error_grad = loop_alrp(
        logits.tolist(), targets.tolist(), errors.tolist(), delta
    )
    parts, g, d = gradients(logits, targets, errors, delta)
    assert parts.classification.item() == pytest.approx(classification, rel=1e-10)
    assert parts.localization.item() == pytest.approx(localization, rel=1e-10)
    torch.testing.assert_close(g, torch.tensor(grad, dtype=torch.float64), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(d, torch.tensor(error_grad, dtype=torch.float64), rtol=1e-8, atol=1e-12)


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.sampled_from([-1.0, 0.0, 0.0, 0.4, 1.0])), min_size=1, max_size=25),
    st.sampled_from(DELTAS),
    st.floats(-5, 5),
)
def test_alrp_properties(entries, delta, shift):
    """Gradients sum to zero, errors lie in [0, 1], and with delta > 0 a common shift changes nothing."""
    logits, targets = (torch.tensor(column, dtype=torch.float64) for column in zip(*entries, strict=True))
    errors = torch.linspace(0, 1, int((targets > 0).sum()), dtype=torch.float64)
    parts, g, _ = gradients(logits, targets, errors, delta)
    assert 0 <= parts.classification.item() < 1 and 0 <= parts.localization.item() <= 1 + 1e-12
    assert abs(g.sum().item()) < 1e-9
    assert (g[targets > 0] <= 0).all() and (g[targets == 0] >= 0).all() and (g[targets < 0] == 0).all()
    if delta > 0:
        moved, h, _ = gradients(logits + shift, targets, errors, delta)
        assert moved.classification.item() == pytest.approx(parts.classification.item(), abs=1e-9)
        torch.testing.assert_close(h, g, rtol=1e-6, atol=1e-9)


def test_alrp_takes_the_order_of_given_positives():
    logits, targets, errors = case()
    index = (targets > 0).nonzero().squeeze(1)
    shuffled = torch.randperm(len(index), generator=torch.Generator().manual_seed(1))
    a, g, d = gradients(logits, targets, errors, 1.0)
    b, h, f = gradients(logits, targets, errors[shuffled], 1.0, positives=index[shuffled])
    assert a.localization.item() == pytest.approx(b.localization.item())
    torch.testing.assert_close(g, h)
    torch.testing.assert_close(f, d[shuffled])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_alrp_in_other_dtypes(dtype):
    logits, targets, errors = case()
    logits = logits.to(dtype)
    got, g, _ = gradients(logits, targets.float(), errors.float(), 1.0)
    want, h, _ = gradients(logits.double(), targets, errors, 1.0)
    assert got.classification.dtype == torch.float32 and g.dtype == dtype
    assert got.classification.item() == pytest.approx(want.classification.item(), rel=1e-5)
    torch.testing.assert_close(g.double(), h, rtol=1e-2, atol=1e-4)


def test_alrp_without_positives_or_negatives():
    x = torch.randn(6, requires_grad=True)
    errors = torch.zeros(0, requires_grad=True)
    parts = alrp_loss(x, torch.zeros(6), errors)
    sum(parts).backward()
    assert parts.classification == 0 and parts.localization == 0
    assert x.grad.eq(0).all() and errors.grad is not None
    parts, g, d = gradients(torch.tensor([1.0, 0.0]), torch.ones(2), torch.tensor([0.5, 0.2]), 0.0)
    assert parts.classification == 0 and g.eq(0).all()
    # The first is ranked first; the second second, behind it: (0.5 / 1 + (0.5 + 0.2) / 2) / 2.
    assert parts.localization.item() == pytest.approx(0.425) and d.tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_not_finite_makes_both_losses_nan(bad):
    logits, targets, errors = case()
    for index, taking_part in ((int((targets == 0).nonzero()[0]), True), (int((targets < 0).nonzero()[0]), False)):
        broken = logits.clone()
        broken[index] = bad
        parts = alrp_loss(broken, targets, errors)
        assert parts.classification.isnan().item() is taking_part
        assert parts.localization.isnan().item() is taking_part
        assert dr_loss(broken, targets).isnan().item() is taking_part
    assert alrp_loss(logits, targets, errors * bad).classification.isnan()


def test_alrp_bad_input_is_named():
    logits, targets, errors = case()
    with pytest.raises(ValueError, match=r'box_errors must have the shape \(\d+,\), one for each positive, got \(3,\)'):
        alrp_loss(logits, targets, errors[:3])
    with pytest.raises(TypeError, match=r'box_errors must be a floating-point'):
        alrp_loss(logits, targets, errors.tolist())
    with pytest.raises(TypeError, match=r'box_errors must be a floating-point tensor, got torch.int64'):
        alrp_loss(logits, targets, errors.long())
    with pytest.raises(ValueError, match='box_errors must be on the device of logits, cpu, got meta'):
        alrp_loss(logits, targets, errors.to('meta'))
    with pytest.raises(RuntimeError, match='ranking losses do not support'):
        torch.vmap(lambda e: alrp_loss(logits, targets, e).localization)(torch.stack([errors, errors]))
    with pytest.raises(ValueError, match='delta'):
        alrp_loss(logits, targets, errors, -1.0)
    with pytest.raises(TypeError, match='logits'):
        alrp_loss(logits.long(), targets, errors)


def test_alrp_is_linear_in_memory_and_quick_where_matrices_would_not_fit():
    """2 million logits with 40,000 positives: pairs alone would be 640 GB."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2_000_000, generator=generator, requires_grad=True)
    targets = torch.zeros(2_000_000)
    targets[:40_000] = 1.0
    parts = alrp_loss(x, targets, torch.full((40_000,), 0.5))
    parts.classification.backward()
    assert 0.9 < parts.classification.item() < 1 and abs(x.grad.sum().item()) < 1e-3


def test_alrp_waits_for_the_device_as_often_as_ap_loss():
    from bucketed_losses.functional import ap_loss

    logits, targets, errors = case()
    positives = (targets > 0).nonzero().squeeze(1)
    counts = []
    for loss in (
        lambda x: alrp_loss(x, targets, errors, positives=positives).classification,
        lambda x: ap_loss(x, targets, positives=positives),
    ):
        with CountSynchronisations() as counted:
            loss(logits)
        counts.append(counted.count)
    assert counts[0] <= counts[1]


def shared_alrp(size: int) -> list[Tensor]:
    """Each process has a part of the logits; the values of all, the gradients as averaging will leave them."""
    import torch.distributed as dist

    rank = dist.get_rank()
    logits, targets, errors = case(num=90, positives=20, seed=5)
    own = torch.arange(90) % size == rank
    mine = targets[own] > 0
    e = errors[(own[targets > 0])]
    assert len(e) == int(mine.sum())
    parts, g, d = gradients(logits[own], targets[own], e, 1.0, group=dist.group.WORLD)
    return [parts.classification.detach(), parts.localization.detach(), g / size, d / size]


@pytest.mark.medium
@pytest.mark.parametrize('size', [2])
def test_alrp_of_processes_is_that_of_one(size):
    logits, targets, errors = case(num=90, positives=20, seed=5)
    parts, g, d = gradients(logits, targets, errors, 1.0)
    for rank, (classification, localization, grad, error_grad) in enumerate(on_processes(size, shared_alrp, size)):
        own = torch.arange(90) % size == rank
        torch.testing.assert_close(classification, parts.classification.detach())
        torch.testing.assert_close(localization, parts.localization.detach())
        torch.testing.assert_close(grad, g[own])
        torch.testing.assert_close(error_grad, d[own[targets > 0]])


def collectives_of_alrp() -> list[list[str]]:
    """With positives on one process only, and without positives on both."""
    import torch.distributed as dist

    found = []
    for positive in (dist.get_rank() == 0, False):
        logits, targets = torch.zeros(4, requires_grad=True), torch.zeros(4)
        targets[0] = float(positive)
        with CountCollectives() as collectives:
            parts = alrp_loss(logits, targets, torch.ones(int(positive)), group=dist.group.WORLD)
        sum(parts).backward()
        found.append(collectives.names)
    assert parts.classification == 0 and parts.localization == 0
    return found


@pytest.mark.medium
def test_collectives_of_alrp_do_not_depend_on_a_process():
    wanted = [['all_gather', 'all_gather', 'all_reduce', 'all_reduce'], ['all_gather']]
    assert on_processes(2, collectives_of_alrp) == [wanted, wanted]


@pytest.mark.parametrize('seed', range(3))
def test_dr_equals_the_definition(seed):
    logits, targets, _ = case(seed=seed)
    assert dr_loss(logits, targets).item() == pytest.approx(loop_dr(logits.tolist(), targets.tolist()), rel=1e-12)
    settings_ = dict(margin=0.2, positive_temperature=0.5, negative_temperature=0.3, smoothness=2.0, scale=1.5)
    loop = dict(margin=0.2, plus=0.5, minus=0.3, smoothness=2.0, scale=1.5)
    assert dr_loss(logits, targets, **settings_).item() == pytest.approx(
        loop_dr(logits.tolist(), targets.tolist(), **loop), rel=1e-12
    )


def test_dr_gradient_is_autograds():
    logits, targets, _ = case(num=12, positives=3)
    assert torch.autograd.gradcheck(lambda x: dr_loss(x, targets), logits.clone().requires_grad_())


def test_dr_edge_cases():
    x = torch.tensor([0.3, -1.0], requires_grad=True)
    loss = dr_loss(x, torch.zeros(2))
    assert loss.item() == pytest.approx(loop_dr([0.3, -1.0], [0, 0]))
    loss.backward()
    assert x.grad.sum() > 0 and x.grad[0] > 0  # the high one goes down
    assert dr_loss(x, torch.ones(2)).item() == pytest.approx(loop_dr([0.3, -1.0], [1, 1]))
    ignored = dr_loss(x, -torch.ones(2))
    assert ignored.item() == pytest.approx(loop_dr([], []))
    assert torch.autograd.grad(ignored, x)[0].eq(0).all()
    # What is ignored takes no part where there is no other positive or negative, either.
    for targets in ([0.0, -1.0], [1.0, -1.0], [-1.0, -1.0]):
        assert dr_loss(torch.tensor([0.3, torch.inf]), torch.tensor(targets)).isfinite()
    with pytest.raises(TypeError, match='smoothness must be a float, got str'):
        dr_loss(x, torch.zeros(2), smoothness='6')
    with pytest.raises(ValueError, match='smoothness must be above 0, got 0'):
        dr_loss(x, torch.zeros(2), smoothness=0)
    for name in ('positive_temperature', 'negative_temperature'):
        for value in (0, 1e-40):
            with pytest.raises(ValueError, match=f'{name} must be at least 1e-06, got {value:g}'):
                dr_loss(x, torch.zeros(2), **{name: value})
        smallest = dr_loss(x.detach() * 8, torch.tensor([0.0, 1.0]), **{name: 1e-6})
        assert smallest.isfinite()
    for name in ('margin', 'positive_temperature', 'negative_temperature', 'smoothness', 'scale'):
        with pytest.raises(ValueError, match=f'{name} must be finite, got nan'):
            dr_loss(x, torch.zeros(2), **{name: math.nan})


def test_dr_is_stable_for_ten_million_half_precision_logits():
    x = torch.full((10_000_000,), -9.0, dtype=torch.float16)
    x[0] = 60000.0
    targets = torch.zeros_like(x)
    targets[0] = 1
    x[1] = 8.0
    loss = dr_loss(x, targets)
    assert loss.dtype == torch.float32
    # One high negative among ten million low ones still counts for a few percent.
    one, low = 1 / (1 + math.exp(-8)), 1 / (1 + math.exp(9))
    of_one, of_low = math.exp(one / MINUS), (1e7 - 2) * math.exp(low / MINUS)
    high = (of_one * one + of_low * low) / (of_one + of_low)
    assert 0.01 < high < 0.05
    assert loss.item() == pytest.approx(4 * math.log1p(math.exp(6 * (high - 1 + 0.5))) / 6, rel=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('target_dtype', [torch.float32, torch.float64, torch.int64])
def test_dr_has_the_dtype_of_the_logits(dtype, target_dtype):
    logits, targets, _ = case()
    loss = dr_loss(logits.to(dtype), (targets > 0).to(target_dtype))
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
