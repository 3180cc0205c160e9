"""Properties that hold for every input, searched by hypothesis."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cases import LOSSES, value_and_grad
from gloo import on_processes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis_profiles import EXAMPLES, PROFILE

from bucketed_losses.core import bucketizer, devices
from bucketed_losses.functional import alrp_loss

pytestmark = pytest.mark.stack

deltas = st.sampled_from([0.0, 1e-3, 0.25, 0.5, 1.0, 5.0])
names = st.sampled_from(sorted(LOSSES))

FOUND = [
    ([0.0] * 22 + [0.125], [0.0] * 20 + [-1, 0.1, 0.1], 1e-3),
    ([0.0] * 7 + [0.25, 1.625, -3.5], [0.0] * 8 + [0.1, 0], 5.0),
    ([0.0] * 8 + [1.75, -3.375], [0.0] * 7 + [-1, 0.1, 0], 5.0),
    ([0.0, 0.623046875, -1.0], [0.4, 0.0, 0.0], 1.0),
    ([0.0, 0.0, -1.0, -1.0], [0.0, 0.4, 0.0, 0.0], 1.0),
]
"""Logits, targets and delta of cases in which what takes no part once had a gradient or changed the value."""


def with_found_cases(test):
    for logits, targets, delta in FOUND:
        case = tuple(torch.tensor(column, dtype=torch.float64) for column in (logits, targets))
        for name in sorted(LOSSES):
            test = example(case, delta, name)(test)
    return test


@st.composite
def inputs(draw):
    """Logits on a grid of 1/8, so that shifting them by integers is exact, and targets of all three kinds."""
    num = draw(st.integers(1, 40))
    logits = draw(st.lists(st.integers(-40, 40), min_size=num, max_size=num))
    kinds = st.one_of(st.just(0.0), st.just(-1.0), st.sampled_from([0.1, 0.25, 0.5, 0.5, 0.9, 1.0]))
    targets = draw(st.lists(kinds, min_size=num, max_size=num))
    return torch.tensor(logits, dtype=torch.float64) / 8, torch.tensor(targets, dtype=torch.float64)


@with_found_cases
@given(inputs(), deltas, names)
def test_gradients_sum_to_zero_and_ignored_entries_have_none(case, delta, name):
    logits, targets = case
    value, grad = value_and_grad(LOSSES[name], logits, targets, delta)
    assert torch.isfinite(value)
    assert abs(grad.sum()) < 1e-9
    assert grad[targets < 0].eq(0).all()


@given(inputs(), deltas, names, st.integers(-1000, 1000))
def test_a_common_shift_changes_nothing(case, delta, name, shift):
    logits, targets = case
    value, grad = value_and_grad(LOSSES[name], logits, targets, delta)
    shifted_value, shifted_grad = value_and_grad(LOSSES[name], logits + shift, targets, delta)
    # Only the placement of float64 edges at s +- 0.001 is subject to rounding.
    torch.testing.assert_close(shifted_value, value, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(shifted_grad, grad, rtol=1e-6, atol=1e-8)


@given(inputs(), deltas, names, st.randoms(use_true_random=False))
def test_order_of_entries_does_not_matter(case, delta, name, random):
    logits, targets = case
    order = list(range(len(logits)))
    random.shuffle(order)
    value, grad = value_and_grad(LOSSES[name], logits, targets, delta)
    permuted_value, permuted_grad = value_and_grad(LOSSES[name], logits[order], targets[order], delta)
    torch.testing.assert_close(permuted_value, value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(permuted_grad, grad[order], rtol=1e-9, atol=1e-12)


@with_found_cases
@given(inputs(), deltas, names)
def test_negatives_far_below_get_no_gradient_and_do_not_count(case, delta, name):
    logits, targets = case
    if not (targets > 0).any():
        return
    floor = logits[targets > 0].min() - delta
    far = (targets == 0) & (logits < floor)
    value, grad = value_and_grad(LOSSES[name], logits, targets, delta)
    assert grad[far].eq(0).all()
    without, _ = value_and_grad(LOSSES[name], logits[~far], targets[~far], delta)
    assert value == without


@with_found_cases
@given(inputs(), deltas, names)
def test_no_negative_is_pushed_up_and_one_at_the_floor_is_not_pushed(case, delta, name):
    """H is 0 for a negative that lies exactly delta below the lowest positive."""
    logits, targets = case
    if not (targets > 0).any():
        return
    _, grad = value_and_grad(LOSSES[name], logits, targets, delta)
    assert (grad[targets == 0] >= 0).all()
    if delta >= 0.25 and 'bucketed' not in name:  # the floor is a number that logits reach; a bucket shares its mean
        floor = logits[targets > 0].min() - delta
        assert grad[(targets == 0) & (logits <= floor)].eq(0).all()


@given(inputs(), deltas, names)
def test_perfect_ranking_costs_nothing(case, delta, name):
    logits, targets = case
    logits = torch.where(targets > 0, logits + 100, logits)
    result = LOSSES[name](logits, targets, delta)
    assert (result[0] if isinstance(result, tuple) else result) == 0


@given(inputs(), deltas, names)
def test_values_lie_in_the_unit_interval(case, delta, name):
    logits, targets = case
    result = LOSSES[name](logits, targets, delta)
    ranking = result[0] if isinstance(result, tuple) else result
    assert 0 <= ranking < 1
    if isinstance(result, tuple):
        assert -1e-12 <= result[1] < 1


@given(inputs(), names, st.sampled_from([1.0, 1e4, -3e-8]))
def test_logits_one_rounding_apart(case, name, base):
    """Neighbouring float64 numbers, without smoothing: nothing may round two of them to one."""
    logits, targets = case
    neighbours = torch.tensor([base + step * math.ulp(base) for step in (8 * logits).tolist()], dtype=torch.float64)
    value, grad = value_and_grad(LOSSES[name], neighbours, targets, 0.0)
    expected_value, expected_grad = value_and_grad(LOSSES[name], logits, targets, 0.0)
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize('name', sorted(LOSSES))
def test_any_shape(name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 6, generator=generator)
    targets = (torch.rand(4, 5, 6, generator=generator) - 0.8).clamp(min=0)
    value, grad = value_and_grad(LOSSES[name], logits, targets, 0.5)
    flat_value, flat_grad = value_and_grad(LOSSES[name], logits.flatten(), targets.flatten(), 0.5)
    assert value == flat_value
    assert torch.equal(grad.flatten(), flat_grad)
    strided_value, strided_grad = value_and_grad(LOSSES[name], logits.mT, targets.mT, 0.5)
    torch.testing.assert_close(strided_value, value)
    torch.testing.assert_close(strided_grad.mT, grad)


ALL_LOSSES = [*sorted(LOSSES), 'alrp_loss']
BRANCHES = {
    'everything kept': {},
    'several pieces': {'PIECE': 7},
    'coarse table': {'CELLS_PER_EDGE': 1, 'MOST_COMPARED': 2},
    'as on an accelerator': {'on_cpu': lambda tensor: False},
}


def case_with_idle_entries(choose, dtype, delta):
    """Logits with many ties, and targets. The first entry is positive, the second ignored, the third near the floor."""
    num = choose.randint(8, 30)
    grid = choose.choice([1, 3, 8, 10])
    scale = choose.choice([0.5, 2.0, 10.0])
    logits = torch.tensor([round(scale * choose.gauss(0, 1)) / grid for _ in range(num)], dtype=dtype)
    kinds = [0.0] * choose.choice([2, 8, 16]) + [-1.0, 0.1, 0.5]
    targets = torch.tensor([0.5, -1.0, 0.0, *choose.choices(kinds, k=num - 3)], dtype=dtype)
    # The last digits around the floor are what rounding can confuse.
    floor = (logits[targets > 0].double().min() - delta).to(dtype)
    logits[2] = choose.choice([floor - 1, floor, torch.nextafter(floor, torch.full_like(floor, -math.inf))])
    logits[1] = choose.choice([0.0, math.nan, math.inf, -math.inf])
    return logits, targets


def everything(name, logits, targets, delta, group=None):
    """Both parts of the value, the gradient of the logits, and that of aLRP Loss's box errors."""
    logits = logits.clone().requires_grad_()
    if name != 'alrp_loss':
        parts = LOSSES[name](logits, targets, delta, group=group)
        parts = parts if isinstance(parts, tuple) else (parts,)
        return [*(part.detach() for part in parts), torch.autograd.grad(sum(parts), logits)[0]]
    errors = torch.linspace(0, 1, int((targets > 0).sum()), dtype=logits.dtype).requires_grad_()
    parts = alrp_loss(logits, targets, errors, delta, group=group)
    errors_grad, grad = torch.autograd.grad(sum(parts), (errors, logits))
    return [*(part.detach() for part in parts), errors_grad, grad]


def is_idle(logits, targets, floor):
    return (targets < 0) | ((targets == 0) & (logits.double() < floor))


def differences_without_idle_entries(name, logits, targets, delta, floor, group=None):
    """What changes, in any bit, without the entries that take no part, and what gradient they get."""
    idle = is_idle(logits, targets, floor)
    *values, grad = everything(name, logits, targets, delta, group)
    found = ['gradient of an idle entry'] if grad[idle].any() else []
    for what, dropped in (('idle', idle), ('ignored', targets < 0), ('far below', idle & (targets == 0))):
        *others, other_grad = everything(name, logits[~dropped], targets[~dropped], delta, group)
        if not all(map(torch.equal, values, others)):
            found.append(f'value without {what}')
        if not torch.equal(grad[~dropped], other_grad):
            found.append(f'gradient without {what}')
    return found


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=['float64', 'float32'])
@pytest.mark.parametrize('branch', BRANCHES)
def test_what_takes_no_part_changes_no_bit(branch, dtype, monkeypatch):
    """Ignored entries and negatives below the floor: present or not, value and gradient are the same numbers."""
    for name, value in BRANCHES[branch].items():
        monkeypatch.setattr(devices if hasattr(devices, name) else bucketizer, name, value)
    choose = random.Random(0)
    for number in range(80):
        delta = choose.choice([0.0, 1e-3, 0.25, 0.3, 1 / 3, 1.0, 5.0])
        logits, targets = case_with_idle_entries(choose, dtype, delta)
        floor = logits[targets > 0].double().min() - delta
        for name in ALL_LOSSES:
            found = differences_without_idle_entries(name, logits, targets, delta, floor)
            assert not found, (number, name, delta, logits, targets, found)


def run_with_idle_entries():
    """What :func:`differences_without_idle_entries` finds on this process, where each process has its own entries."""
    choose = random.Random(1)
    found = []
    for number in range(40):
        delta = choose.choice([0.0, 1e-3, 0.25, 0.3, 1.0, 5.0])
        shards = [case_with_idle_entries(choose, torch.float64, delta) for _ in range(dist.get_world_size())]
        floor = min(logits[targets > 0].min() for logits, targets in shards) - delta
        for name in ALL_LOSSES:
            args = (name, *shards[dist.get_rank()], delta, floor, dist.group.WORLD)
            found += [(number, name, what) for what in differences_without_idle_entries(*args)]
    return found


@pytest.mark.medium
@pytest.mark.skipif(not dist.is_available(), reason='PyTorch was built without distributed support')
def test_what_takes_no_part_changes_no_bit_on_any_process():
    assert on_processes(2, run_with_idle_entries) == [[], []]


@pytest.mark.parametrize('name', ALL_LOSSES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=['float64', 'float32'])
def test_floors_with_no_ordinary_number_below(name, dtype):
    """A floor of 0, with only subnormal numbers next to it, which count as 0 here; and one that nothing is below."""
    logits = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0, 0.5, -1.0, -2.0, 0.7], dtype=dtype)
    targets = torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0, -1, 0], dtype=dtype)
    flushes = torch.set_flush_denormal(True)
    try:
        found = differences_without_idle_entries(name, logits, targets, 1.0, 0.0)
        found += differences_without_idle_entries(name, logits - 1, targets, 0.0, 0.0)
    finally:
        torch.set_flush_denormal(False)
    assert not found, f'flushes: {flushes}'
    assert not differences_without_idle_entries(name, logits, targets, 1e300, -1e300)
    logits[0] = lowest = torch.finfo(dtype).min
    assert not differences_without_idle_entries(name, logits, targets, 1.0, lowest)


def test_every_run_draws_the_same_cases():
    """Unless the thorough profile is asked for, a run says what the last one said."""
    assert settings().derandomize is (PROFILE == 'default')
    assert settings().max_examples == (EXAMPLES if PROFILE == 'default' else 10 * EXAMPLES)


@pytest.mark.slow
def test_thorough_search():
    """Every property of the suite, on new cases and ten times as many. The marker is hypothesis's own."""
    folder = Path(__file__).resolve().parents[1]
    modules = sorted(path for path in folder.rglob('test_*.py') if 'from hypothesis import' in path.read_text())
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'hypothesis', *modules]
    env = {**os.environ, 'HYPOTHESIS_PROFILE': 'thorough'}
    result = subprocess.run(command, cwd=folder.parent, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
