"""Many rankings in one call, against a loop over calls."""

from __future__ import annotations

import pytest
import torch
from cases import DELTAS, LOSSES, close_in_float64
from operations import CountOperations
from synchronisations import CountSynchronisations
from torch._subclasses.fake_tensor import FakeTensorMode

from bucketed_losses import functional as F
from bucketed_losses.core import bucket_sums, devices, pair_sums
from bucketed_losses.core.devices import as_on_an_accelerator

pytestmark = pytest.mark.stack

EACH = pytest.mark.parametrize('name', sorted(LOSSES))


def grouped_case(seed, num, num_groups, tied=False, dtype=torch.float64):
    """Logits, targets and groups in any order; group 1 has no positive, and the last group has no entry."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(num, generator=generator, dtype=torch.float64)
    targets = torch.rand(num, generator=generator, dtype=torch.float64).clamp(min=0.01)
    if tied:
        logits, targets = (4 * logits).round() / 4, (5 * targets).ceil() / 5
    kind = torch.rand(num, generator=generator)
    targets[kind < 0.7], targets[kind < 0.1] = 0, -1
    groups = torch.randint(0, num_groups - 1, (num,), generator=generator)
    targets[(groups == 1) & (targets > 0)] = 0
    return logits.to(dtype), targets.to(dtype), groups


def parts(result):
    return torch.stack(list(result)) if isinstance(result, tuple) else result.unsqueeze(0)


def by_calls(loss, logits, targets, groups, num_groups, *arguments):
    """The parts ``(m, G)`` by one call for each group, as a function of the logits, and these."""

    def values(x):
        calls = [loss(x[groups == group], targets[groups == group], *arguments) for group in range(num_groups)]
        return torch.stack([parts(result) for result in calls], dim=1)

    return values, logits


def in_one_call(loss, logits, targets, groups, num_groups, *arguments, **more):
    """The same by one call."""
    return lambda x: parts(loss(x, targets, *arguments, groups=groups, num_groups=num_groups, **more)), logits


def value_and_grad(function, logits):
    """Values, and the gradient of their sum with a different factor for each of them."""
    logits = logits.clone().requires_grad_()
    values = function(logits)
    factors = torch.linspace(0.5, 2, values.numel(), dtype=values.dtype).view_as(values)
    return values.detach(), torch.autograd.grad((values * factors).sum(), logits)[0]


@EACH
@pytest.mark.parametrize('accelerator', [False, True], ids=['cpu', 'accelerator'])
@pytest.mark.parametrize('pairs', ['dense', 'tree'])
@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
@pytest.mark.parametrize('delta', DELTAS)
def test_each_group_is_ranked_by_itself(name, delta, tied, pairs, accelerator, monkeypatch):
    if pairs == 'tree':
        monkeypatch.setattr(pair_sums, 'MOST_DENSE', 0)
        monkeypatch.setattr(bucket_sums, 'LEAST_ENTRIES', 0)
    for seed, (num, num_groups) in enumerate([(1, 2), (5, 4), (60, 3), (150, 6), (200, 40)]):
        case = grouped_case(seed, num, num_groups, tied)
        monkeypatch.setattr(devices, 'on_cpu', lambda tensor: True)
        expected, grad = value_and_grad(*by_calls(LOSSES[name], *case, num_groups, delta))
        monkeypatch.setattr(devices, 'on_cpu', lambda tensor: not accelerator)
        values, grad_of_call = value_and_grad(*in_one_call(LOSSES[name], *case, num_groups, delta))
        close_in_float64(values, expected, rtol=0, atol=1e-11)
        close_in_float64(grad_of_call, grad, rtol=0, atol=1e-10)
        assert grad_of_call[(grad == 0) & (case[1] <= 0)].eq(0).all()


@EACH
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_dtypes_and_shapes(name, dtype):
    """Columns are classes: the mean of the values is a loss by class."""
    logits, targets, _ = grouped_case(0, 120, 3, dtype=dtype)
    logits, targets = logits.view(30, 4), targets.float().view(30, 4)
    groups = torch.arange(4).expand(30, 4)
    values, grad = value_and_grad(lambda x: parts(LOSSES[name](x, targets, 0.5, groups=groups, num_groups=4)), logits)
    expected, expected_grad = value_and_grad(
        lambda x: torch.stack([parts(LOSSES[name](x[:, k], targets[:, k], 0.5)) for k in range(4)], dim=1), logits
    )
    assert values.dtype == torch.float32 and grad.dtype == dtype and grad.shape == logits.shape
    close_in_float64(values, expected, rtol=1e-6, atol=0)
    close_in_float64(grad, expected_grad, rtol=torch.finfo(dtype).eps, atol=1e-7)


@EACH
def test_one_group_equals_no_groups(name):
    logits, targets, _ = grouped_case(1, 90, 3)
    values, grad = value_and_grad(
        lambda x: parts(LOSSES[name](x, targets, groups=torch.zeros(90, dtype=torch.int64), num_groups=1)).sum(1),
        logits,
    )
    expected, expected_grad = value_and_grad(lambda x: parts(LOSSES[name](x, targets)), logits)
    close_in_float64(values, expected, rtol=0, atol=1e-12)
    close_in_float64(grad, expected_grad, rtol=0, atol=1e-12)


@EACH
def test_known_positives(name):
    logits, targets, groups = grouped_case(2, 90, 4)
    arguments = dict(groups=groups, num_groups=4)
    found = value_and_grad(lambda x: parts(LOSSES[name](x, targets, **arguments)), logits)
    positives = (targets > 0).nonzero().squeeze(1).flip(0)
    given = value_and_grad(lambda x: parts(LOSSES[name](x, targets, positives=positives, **arguments)), logits)
    for a, b in zip(given, found, strict=True):
        close_in_float64(a, b, rtol=0, atol=1e-13)


@EACH
@pytest.mark.parametrize('num', [0, 20])
def test_without_positives_the_values_are_zero_and_connected(name, num):
    logits = torch.arange(float(num), requires_grad=True)
    values = parts(LOSSES[name](logits, torch.zeros(num), groups=torch.arange(num) % 3, num_groups=3))
    assert values.shape[1] == 3 and values.eq(0).all() and values.requires_grad
    values.sum().backward()
    assert torch.equal(logits.grad, torch.zeros(num))


@EACH
@pytest.mark.parametrize('bad', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('delta', [0.0, 0.5])
@pytest.mark.parametrize('shift', [0.0, -500.0])
@pytest.mark.parametrize('pairs', ['dense', 'tree'])
def test_what_is_not_finite_concerns_its_own_group(name, bad, delta, shift, pairs, monkeypatch):
    if pairs == 'tree':
        monkeypatch.setattr(pair_sums, 'MOST_DENSE', 0)
        monkeypatch.setattr(bucket_sums, 'LEAST_ENTRIES', 0)
    logits, targets, groups = grouped_case(3, 120, 4)
    logits[groups == 0] += shift
    arguments = dict(groups=groups, num_groups=4)
    expected, expected_grad = value_and_grad(lambda x: parts(LOSSES[name](x, targets, delta, **arguments)), logits)
    positives = (targets > 0).nonzero().squeeze(1)
    negative, positive = ((groups == 0) & (targets == 0)).nonzero()[0], positives[groups[positives] == 0][:1]
    for broken_logits, broken_targets in (
        (logits.index_fill(0, negative, bad), targets),
        (logits.index_fill(0, positive, bad), targets),
        (logits, targets.index_fill(0, positive, abs(bad))),
    ):

        def loss(x, own=broken_targets):
            with as_on_an_accelerator():  # where the values of targets are not checked
                return parts(LOSSES[name](x, own, delta, positives=positives, **arguments))

        values, grad = value_and_grad(loss, broken_logits)
        assert values[:, 0].isnan().all()
        assert grad[positives[groups[positives] == 0]].isnan().all()
        close_in_float64(values[:, 1:], expected[:, 1:], rtol=0, atol=1e-6)
        others = groups != 0
        close_in_float64(grad[others], expected_grad[others], rtol=0, atol=1e-6)


@EACH
def test_operations_do_not_grow_with_the_groups(name):
    counts = []
    for num_groups in (2, 50):
        logits, targets, groups = grouped_case(4, 2000, num_groups)
        positives = (targets > 0).nonzero().squeeze(1)
        with CountOperations() as counted:
            parts(
                LOSSES[name](
                    logits.requires_grad_(), targets, positives=positives, groups=groups, num_groups=num_groups
                )
            ).sum().backward()
        counts.append(len(counted.names))
    assert counts[0] == counts[1]


@pytest.mark.usefixtures('fake_cuda')
@EACH
@pytest.mark.parametrize('delta', [0.0, 0.5])
@pytest.mark.parametrize('num_pos', [3, 2500])
def test_groups_wait_for_nothing_if_the_positives_are_given(name, delta, num_pos):
    with FakeTensorMode():
        logits, targets = torch.empty(50_000, device='cuda', requires_grad=True), torch.empty(50_000, device='cuda')
        groups = torch.empty(50_000, dtype=torch.int64, device='cuda')
        positives = torch.empty(num_pos, dtype=torch.int64, device='cuda')
        values = LOSSES[name](logits, targets, delta, positives=positives, groups=groups, num_groups=7)
        assert parts(values).device.type == 'cuda' and parts(values).shape[1] == 7


@EACH
def test_groups_wait_once_to_find_the_positives(name, monkeypatch):
    monkeypatch.setattr(devices, 'on_cpu', lambda tensor: False)
    logits, targets, groups = grouped_case(5, 300, 5)
    with CountSynchronisations() as mode:
        parts(LOSSES[name](logits.requires_grad_(), targets, groups=groups, num_groups=5)).sum().backward()
    assert mode.count == 1


@EACH
@pytest.mark.parametrize(
    ('arguments', 'error', 'words'),
    [
        (dict(groups=torch.zeros(3, dtype=torch.int64)), ValueError, 'given together, got num_groups=None'),
        (dict(num_groups=2), ValueError, 'given together, got num_groups=2'),
        (dict(groups=torch.zeros(3), num_groups=2), TypeError, 'groups must be an int64 tensor.*torch.float32'),
        (dict(groups=[0, 0, 0], num_groups=2), TypeError, 'groups must be an int64 tensor.*list'),
        (dict(groups=torch.zeros(3, dtype=torch.int64), num_groups=2.0), TypeError, 'num_groups must be an int.*float'),
        (dict(groups=torch.zeros(2, dtype=torch.int64), num_groups=2), ValueError, r'the shape of logits, \(3,\), got'),
        (dict(groups=torch.tensor([0, 1, 2]), num_groups=2), ValueError, r'lie in \[0, 2\).*got 0 to 2'),
        (dict(groups=torch.tensor([0, -1, 1]), num_groups=2), ValueError, 'got -1 to 1'),
        (dict(groups=torch.zeros(3, dtype=torch.int64), num_groups=1, group='world'), ValueError, "'local'"),
    ],
)
def test_bad_groups(name, arguments, error, words):
    with pytest.raises(error, match=words):
        LOSSES[name](torch.zeros(3), torch.tensor([0.5, 0.0, -1.0]), 0.5, **arguments)


def test_worked_example():
    """Two rankings of one positive: behind one of two negatives, and in front of its only one."""
    logits, targets = torch.tensor([3.0, 2.0, 1.0, 5.0, 4.0]), torch.tensor([0.0, 0.5, 0.0, 1.0, 0.0])
    values = F.ap_loss(logits, targets, 0.0, groups=torch.tensor([0, 0, 0, 1, 1]), num_groups=2)
    assert values.tolist() == [0.5, 0.0]
