"""Properties that hold for every input, searched by hypothesis."""

from __future__ import annotations

import math

import pytest
import torch
from cases import LOSSES, value_and_grad
from hypothesis import given, settings
from hypothesis import strategies as st

settings.register_profile('default', max_examples=60, deadline=None)
settings.load_profile('default')

deltas = st.sampled_from([0.0, 1e-3, 0.25, 0.5, 1.0, 5.0])
names = st.sampled_from(sorted(LOSSES))


@st.composite
def inputs(draw):
    """Logits on a grid of 1/8, so that shifting them by integers is exact, and targets of all three kinds."""
    num = draw(st.integers(1, 40))
    logits = draw(st.lists(st.integers(-40, 40), min_size=num, max_size=num))
    kinds = st.one_of(st.just(0.0), st.just(-1.0), st.sampled_from([0.1, 0.25, 0.5, 0.5, 0.9, 1.0]))
    targets = draw(st.lists(kinds, min_size=num, max_size=num))
    return torch.tensor(logits, dtype=torch.float64) / 8, torch.tensor(targets, dtype=torch.float64)


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
