"""AP Loss with interpolated precisions, as published: against loops, published outputs, and the replacement of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from cases import DELTAS, close_in_float64, random_case, value_and_grad
from gloo import on_processes
from hypothesis import given
from hypothesis import strategies as st
from published_reference import loop_interpolated_ap

from bucketed_losses import functional as F
from bucketed_losses import modules
from bucketed_losses.compat import APLoss

pytestmark = pytest.mark.stack

OUTPUTS = np.load(Path(__file__).resolve().parents[1] / 'data/published_outputs.npz')
SIZES = [(1, 40, 0), (7, 60, 5), (25, 100, 10), (40, 0, 3), (60, 12, 0)]
close = partial(close_in_float64, rtol=1e-9, atol=1e-11)
interpolated_ap = partial(F.ap_loss, interpolated=True)


def ones(targets):
    """The loop takes a target of 1 as positive; the function takes any target above 0."""
    return [1.0 if target > 0 else target for target in targets.tolist()]


@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
@pytest.mark.parametrize('sizes', SIZES)
@pytest.mark.parametrize('delta', DELTAS)
def test_equals_the_loop(delta, sizes, tied):
    logits, targets = random_case(sum(sizes), *sizes, tied=tied)
    value, gradient = value_and_grad(interpolated_ap, logits, targets, delta)
    expected, expected_gradient = loop_interpolated_ap(logits.tolist(), ones(targets), delta)
    close(value, expected)
    close(gradient, expected_gradient)


@pytest.mark.parametrize('delta', DELTAS)
def test_an_outlier_among_the_negatives_takes_no_digits_from_the_others(delta):
    logits, targets = random_case(3, 25, 100, 10)
    logits[(targets == 0).nonzero()[:2]] = 1e16
    value, gradient = value_and_grad(interpolated_ap, logits, targets, delta)
    expected_value, expected_gradient = loop_interpolated_ap(logits.tolist(), ones(targets), delta)
    close(value, expected_value)
    close(gradient, expected_gradient)


@pytest.mark.parametrize('case', sorted({key.split('/')[0] for key in OUTPUTS.files if key.startswith('APLoss')}))
def test_equals_the_published_code(case):
    """Recorded by tests/support/record_published_outputs.py; the published code ignores targets other than 0 and 1."""
    field = {name: torch.tensor(OUTPUTS[f'{case}/{name}']) for name in ('logits', 'targets', 'output0', 'gradient')}
    targets = torch.where((field['targets'] == 0) | (field['targets'] == 1), field['targets'], -1)
    value, gradient = value_and_grad(interpolated_ap, field['logits'], targets, float(OUTPUTS[f'{case}/delta']))
    close(value, field['output0'], rtol=0, atol=1e-5)
    close(gradient * float(OUTPUTS[f'{case}/scales'][0]), field['gradient'], rtol=0, atol=1e-5)


ENTRIES = st.lists(
    st.tuples(st.floats(-3, 3) | st.integers(-2, 2), st.sampled_from([-1.0, 0.0, 0.0, 0.0, 0.4, 0.8, 1.0])),
    min_size=1,
    max_size=25,
)


@given(entries=ENTRIES, delta=st.sampled_from(DELTAS))
def test_properties(entries, delta):
    """The gradient sums to 0; the value lies in [0, 1) and is at most the mean of ``1 - precision(i)``."""
    logits, targets = (torch.tensor(column, dtype=torch.float64) for column in zip(*entries, strict=True))
    value, gradient = value_and_grad(interpolated_ap, logits, targets, delta)
    assert 0 <= value < 1
    close(gradient.sum(), 0.0)
    assert (gradient[targets > 0] <= 0).all() and (gradient[targets <= 0] >= 0).all()
    assert gradient[targets < 0].eq(0).all()
    assert value <= F.ap_loss(logits, targets, delta) + 1e-12, 'its ranks and its precisions are at least as high'
    as_replacement = value_and_grad(APLoss.apply, logits, (targets > 0).double() - (targets < 0).double(), delta)
    assert torch.equal(value, as_replacement[0]) and torch.equal(gradient, as_replacement[1])


def test_positives_may_be_given():
    logits, targets = random_case(3, 9, 80, 4)
    indices = (targets > 0).nonzero().squeeze(1).flip(0)
    value, gradient = value_and_grad(partial(interpolated_ap, positives=indices), logits, targets, 0.5)
    expected = value_and_grad(interpolated_ap, logits, targets, 0.5)
    close(value, expected[0])
    close(gradient, expected[1])


def test_without_positives_and_not_finite():
    logits = torch.tensor([0.5, -1.0], requires_grad=True)
    loss = F.ap_loss(logits, torch.tensor([0.0, 0.0]), interpolated=True)
    assert loss == 0
    loss.backward()
    assert logits.grad.eq(0).all()
    assert F.ap_loss(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 0.0]), interpolated=True).isnan()


def test_module():
    logits, targets = random_case(5, 9, 80, 4)
    loss = modules.APLoss(0.5, interpolated=True)
    assert 'interpolated=True' in repr(loss)
    assert loss(logits, targets) == interpolated_ap(logits, targets, 0.5) != F.ap_loss(logits, targets, 0.5)
    with pytest.raises(TypeError, match='interpolated'):
        modules.BucketedAPLoss(interpolated=True)


SHARDS = [(5, 40), (0, 60), (12, 7)]


def of_processes():
    results = []
    for delta in DELTAS:
        logits, targets = random_case(dist.get_rank(), *SHARDS[dist.get_rank()])
        results.append(value_and_grad(partial(interpolated_ap, group='world'), logits, targets, delta))
    return results


@pytest.mark.medium
@pytest.mark.skipif(not dist.is_available(), reason='PyTorch was built without distributed support')
def test_several_processes_equal_one():
    """The gradient is multiplied by the number of processes, which DDP divides by."""
    per_process = on_processes(3, of_processes)
    shards = [random_case(rank, *size) for rank, size in enumerate(SHARDS)]
    logits, targets = (torch.cat(part) for part in zip(*shards, strict=True))
    for index, delta in enumerate(DELTAS):
        value, gradient = value_and_grad(interpolated_ap, logits, targets, delta)
        for results in per_process:
            close(results[index][0], value)
        close(torch.cat([results[index][1] for results in per_process]) / 3, gradient)
