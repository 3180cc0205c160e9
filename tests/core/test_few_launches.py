"""What an accelerator runs: here on the CPU, so that every machine tests it.

The values are compared with those of the CPU's own code and with loops; the number of operations, the largest tensor
and the waits of the host are counted.
"""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from cases import DELTAS, LOSSES, close_in_float64, random_case, value_and_grad
from operations import CountOperations
from reference import loop_bucketed_ranking, loop_rs_loss
from synchronisations import CountSynchronisations
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from bucketed_losses.core import bucket_sums, devices, merge_tree, pair_sums

pytestmark = pytest.mark.stack

LIMITS = {
    # Operations of a forward and a backward pass, for up to 2,048 positives and above.
    'ap_loss': (50, 50),
    'bucketed_ap_loss': (55, 55),
    'rs_loss': (75, 110),
    'bucketed_rs_loss': (80, 115),
}
SIZES = [(1, 0, 0), (1, 40, 0), (2, 60, 5), (7, 60, 5), (40, 0, 3), (60, 12, 0), (33, 300, 20)]


@pytest.fixture
def accelerator(monkeypatch):
    """Takes the branches of an accelerator, on CPU tensors."""
    monkeypatch.setattr(devices, 'on_cpu', lambda tensor: False)


@pytest.fixture(params=['dense', 'tree', 'tree-in-parts'])
def pairs(request, monkeypatch):
    """Each way to sum over pairs, whatever the number of positives; several places for each bucket."""
    monkeypatch.setattr(bucket_sums, 'LEAST_ENTRIES', 0)
    if request.param != 'dense':
        monkeypatch.setattr(pair_sums, 'MOST_DENSE', 0)
    if request.param == 'tree-in-parts':
        monkeypatch.setattr(devices, 'MOST_ELEMENTS', 500)


def synthetic(num_pos, num_neg, dtype=torch.float32):
    """The paper's synthetic data (S.3.2), with the indices of the positives."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_pos + num_neg, generator=generator, dtype=dtype) + 1
    logits[:num_pos] -= 2
    targets = torch.zeros(num_pos + num_neg, dtype=dtype)
    targets[:num_pos] = torch.rand(num_pos, generator=generator, dtype=dtype).clamp(min=0.01)
    return logits, targets, torch.arange(num_pos)


@pytest.mark.usefixtures('accelerator')
@pytest.mark.parametrize('grouped', [False, True], ids=['one', 'grouped'])
@pytest.mark.parametrize('name', sorted(LOSSES))
def test_no_negative_is_pushed_up_and_one_at_the_floor_is_not_pushed(name, grouped):
    """H is 0 for a negative that lies exactly delta below the lowest positive; the last digits of the others vary."""
    random = torch.Generator().manual_seed(0)
    for _ in range(200):
        logits = torch.randn(12, generator=random, dtype=torch.float64)
        targets = torch.tensor([0.4, 0.9] + [0.0] * 10, dtype=torch.float64)
        logits[2] = logits[:2].min() - 0.3
        logits[3] = logits[2] + 1e-16
        arguments = {'groups': torch.zeros(12, dtype=torch.int64), 'num_groups': 1} if grouped else {}
        _, grad = value_and_grad(partial(LOSSES[name], **arguments), logits, targets, 0.3)
        assert (grad[2:] >= 0).all()
        if 'bucketed' not in name:  # a bucket shares what its mean gets
            assert grad[2:][logits[2:] <= logits[2]].eq(0).all()


def step(loss, logits, targets, positives, **arguments):
    result = loss(logits, targets, positives=positives, **arguments)
    (result.total if isinstance(result, tuple) else result).backward()


@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
@pytest.mark.parametrize('delta', DELTAS)
@pytest.mark.usefixtures('pairs')
def test_it_equals_the_cpu_and_gives_exactly_nothing_to_what_takes_no_part(delta, tied, monkeypatch):
    for seed, sizes in enumerate(SIZES):
        for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 2e-7)):
            logits, targets = random_case(seed, *sizes, tied=tied, dtype=dtype)
            for loss in LOSSES.values():
                monkeypatch.setattr(devices, 'on_cpu', lambda tensor: True)
                value, grad = value_and_grad(loss, logits, targets, delta)
                monkeypatch.setattr(devices, 'on_cpu', lambda tensor: False)
                again, grad_again = value_and_grad(loss, logits, targets, delta)
                assert again.dtype == value.dtype and grad_again.dtype == grad.dtype
                close_in_float64(again, value, rtol=0, atol=atol)
                close_in_float64(grad_again, grad, rtol=0, atol=atol)
                below = (targets == 0) & (logits < logits[targets > 0].min() - delta)
                assert grad_again[below | (targets < 0)].eq(0).all()


@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
@pytest.mark.parametrize('delta', DELTAS)
@pytest.mark.usefixtures('pairs', 'accelerator')
def test_it_equals_the_loops(delta, tied):
    logits, targets = random_case(3, 30, 120, 10, tied=tied)
    expected = loop_rs_loss(logits.tolist(), targets.tolist(), delta)
    ranking, ranking_grad = loop_bucketed_ranking(logits.tolist(), targets.tolist(), delta)
    sorting_grad = torch.tensor(expected.sorting_grad, dtype=torch.float64)
    for name, value, grad in (
        ('ap_loss', expected.ranking, torch.tensor(expected.ranking_grad, dtype=torch.float64)),
        ('bucketed_ap_loss', ranking, torch.tensor(ranking_grad, dtype=torch.float64)),
    ):
        for loss, sorting in ((name, 0), (name.replace('ap', 'rs'), 1)):
            got, got_grad = value_and_grad(LOSSES[loss], logits, targets, delta)
            close_in_float64(got, value + sorting * expected.sorting, rtol=1e-10, atol=1e-12)
            close_in_float64(got_grad, grad + sorting * sorting_grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', sorted(LOSSES))
def test_half_precision(name, dtype, monkeypatch):
    logits, targets = random_case(1, 20, 200, dtype=dtype)
    value, grad = value_and_grad(LOSSES[name], logits, targets, 0.5)
    monkeypatch.setattr(devices, 'on_cpu', lambda tensor: False)
    again, grad_again = value_and_grad(LOSSES[name], logits, targets, 0.5)
    assert again.dtype == torch.float32 and grad_again.dtype == dtype
    close_in_float64(again, value, rtol=1e-6, atol=0)
    close_in_float64(grad_again, grad, rtol=torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize('name', sorted(LOSSES))
@pytest.mark.parametrize('outlier', ['positive', 'negative'])
@pytest.mark.parametrize('num_pos', [40, 2500], ids=['dense', 'tree'])
@pytest.mark.usefixtures('accelerator')
def test_an_outlier_takes_few_digits_from_the_others(name, outlier, num_pos):
    """H is 0 or 1 far from 0, so an outlier may come as near as the span of the others without changing the loss."""
    logits, targets = random_case(4, num_pos, 300)
    index = (targets > 0 if outlier == 'positive' else targets == 0).nonzero()[0]
    near, far = logits.clone(), logits.clone()
    near[index], far[index] = 100, 1e9 if outlier == 'positive' else 1e30
    value, grad = value_and_grad(LOSSES[name], near, targets, 0.5)
    again, grad_again = value_and_grad(LOSSES[name], far, targets, 0.5)
    close_in_float64(again, value, rtol=0, atol=1e-6)
    close_in_float64(grad_again, grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize('name', sorted(LOSSES))
@pytest.mark.parametrize('bad', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('entry', ['positive', 'negative', 'iou'])
@pytest.mark.parametrize('delta', [0.0, 0.5])
@pytest.mark.usefixtures('accelerator', 'pairs')
def test_what_is_not_finite_makes_value_and_gradient_nan(name, bad, entry, delta):
    logits, targets = random_case(5, 9, 40, 3)
    positives = (targets > 0).nonzero().squeeze(1)
    if entry == 'iou':
        targets[positives[4]] = abs(bad)
    else:
        logits[positives[4] if entry == 'positive' else (targets == 0).nonzero()[0]] = bad
    value, grad = value_and_grad(lambda *args: LOSSES[name](*args, positives=positives), logits, targets, delta)
    assert value.isnan()
    assert grad[positives].isnan().all()


@pytest.mark.parametrize('num_pos', [1000, 2048, 2049, 8192])
@pytest.mark.parametrize('name', sorted(LOSSES))
@pytest.mark.usefixtures('accelerator')
def test_it_launches_few_operations_in_bounded_memory(name, num_pos):
    num_neg = 100_001
    logits, targets, positives = synthetic(num_pos, num_neg)
    for arguments in ({}, {'delta': 0.0}):
        own = logits.clone().requires_grad_()
        with CountOperations() as counted:
            step(LOSSES[name], own, targets, positives, **arguments)
        assert len(counted.names) <= LIMITS[name][num_pos > pair_sums.MOST_DENSE], counted.names
        assert counted.largest <= max(8 * (num_neg + num_pos), devices.MOST_ELEMENTS)


def test_views_are_not_counted():
    """The test above can fail: an operation counts, also in place, and a view does not."""
    values = torch.arange(6.0)
    with CountOperations() as counted:
        values.view(2, 3).t()[0].unsqueeze(0).expand(4, -1).detach()
        values.mul_(2).add(1).reshape(2, 3).t().reshape(-1)
    assert counted.names == ['mul_.Tensor', 'add.Tensor', 'clone']


@pytest.mark.usefixtures('fake_cuda')
@pytest.mark.parametrize('name', sorted(LOSSES))
@pytest.mark.parametrize('num_pos', [3, 2500])
@pytest.mark.parametrize('delta', [0.0, 0.5])
def test_it_waits_for_nothing_if_the_positives_are_given(name, num_pos, delta):
    """On fake CUDA tensors whatever makes the host wait raises an error. They have no backward pass without CUDA;
    :func:`test_it_waits_once_to_find_the_positives` counts there."""
    with FakeTensorMode():
        logits = torch.empty(50, 1001, device='cuda', requires_grad=True)
        targets = torch.empty(50, 1001, device='cuda')
        positives = torch.empty(num_pos, dtype=torch.int64, device='cuda')
        result = LOSSES[name](logits, targets, delta, positives=positives)
        value = result.total if isinstance(result, tuple) else result
        assert value.device.type == 'cuda' and value.shape == () and value.requires_grad
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            LOSSES[name](logits, targets, delta)  # how many positives there are


@pytest.mark.parametrize('name', sorted(LOSSES))
@pytest.mark.usefixtures('accelerator')
def test_it_waits_once_to_find_the_positives(name):
    logits, targets, positives = synthetic(300, 10_000)
    for given, waits in ((None, 1), (positives, 0)):
        with CountSynchronisations() as mode:
            step(LOSSES[name], logits.clone().requires_grad_(), targets, given)
        assert mode.count == waits


@pytest.mark.parametrize('levels', [1, 3])
def test_the_merge_tree_equals_its_definition(levels, monkeypatch):
    """Sums over pairs written out, and their transpose; ties among logits and among IoUs."""
    generator = torch.Generator().manual_seed(levels)
    for num in (1, 2, 3, 8, 9, 37):
        z = (torch.randn(num, generator=generator, dtype=torch.float64) * 8).round().div(8).sort().values
        ious = torch.randint(1, 6, (num,), generator=generator).double() / 5
        weights = torch.rand(num, generator=generator, dtype=torch.float64)
        constants = torch.arange(-1, 2, dtype=torch.float64).unsqueeze(1)
        monkeypatch.setattr(devices, 'MOST_ELEMENTS', 12 * num * levels)
        for delta in (0.0, 0.125, 0.4, 3.0):
            distance = z - z.unsqueeze(1)  # row k, column i
            steps = (distance >= 0).double() if delta == 0 else (distance + delta).clamp(0, 2 * delta)
            smaller = steps * (ious.unsqueeze(1) < ious)
            tree = merge_tree.MergeTree(z, ious, constants, delta)
            for got, expected in zip(tree.sums(), (steps, smaller), strict=True):
                close_in_float64(got, torch.stack([expected.sum(0), ious @ expected]), rtol=1e-12, atol=1e-12)
            close_in_float64(tree.transposed(weights), smaller @ weights, rtol=1e-12, atol=1e-12)


def test_places_do_not_depend_on_the_entries_in_compiled_code(monkeypatch):
    monkeypatch.setattr(devices, 'is_compiling', lambda: True)
    few, many = (bucket_sums.num_places(entries, 4001) for entries in (10**5, 10**8))
    assert few == many > 400


def test_places_are_many_and_in_proportion_to_the_entries():
    for entries, buckets in itertools.product((1, 2**15, 10**5, 10**6, 10**7), (1, 500, 4001, 40_001, 10**6)):
        places = bucket_sums.num_places(entries, buckets)
        elements = places * (2 * buckets + 2)
        assert 1 <= places <= 1024
        assert places == 1 or elements <= max(entries, min(devices.MOST_ELEMENTS, 4 * entries))
    assert bucket_sums.num_places(10**6, 4001) > 400
