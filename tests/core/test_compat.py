"""The replacements for the code of 2020 and 2021: loops, what the published code returned, and its conventions."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import DELTAS, close_in_float64, random_case
from hypothesis import example, given
from hypothesis import strategies as st
from published_reference import loop_alrp_parts, loop_interpolated_ap, loop_rank_sort
from synchronisations import CountSynchronisations

from bucketed_losses import functional as F
from bucketed_losses.compat import APLoss, RankSort, aLRPLoss
from bucketed_losses.core import devices

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = np.load(ROOT / 'tests/data/published_outputs.npz')
GOLDEN = np.load(ROOT / 'tests/data/published_values.npz')
SIZES = [(1, 40, 0), (7, 60, 5), (25, 100, 10), (40, 0, 3), (60, 12, 0)]
INFINITIES = (math.nan, math.inf, -math.inf)


def cases_of(file):
    return sorted({key.split('/')[0] for key in file.files})


def ones(targets):
    """The positives of APLoss and aLRPLoss."""
    return torch.where(targets > 0, 1, targets)


def rank_sort(logits, targets, *args):
    return RankSort.apply(logits, targets, *args)


def ap(logits, targets, *args):
    return (APLoss.apply(logits, ones(targets), *args),)


def alrp(logits, targets, *args):
    return aLRPLoss.apply(logits, ones(targets), 1 - targets[targets > 0], *args)


ALL = pytest.mark.parametrize('loss', [rank_sort, ap, alrp])


def outputs_and_gradient(loss, logits, targets, *args):
    """The outputs, and the gradient of the logits for an upstream gradient of 1."""
    logits = logits.detach().clone().requires_grad_()
    outputs = loss(logits, targets, *args)
    (gradient,) = torch.autograd.grad(outputs[0], logits)
    return [output.detach() for output in outputs], gradient


close = partial(close_in_float64, rtol=1e-9, atol=1e-11)


def expect_loops(loss, logits, targets, delta, *eps):
    outputs, gradient = outputs_and_gradient(loss, logits, targets, delta, *eps)
    if loss is rank_sort:
        ranking, sorting, expected = loop_rank_sort(logits.tolist(), targets.tolist(), delta, *(eps or (1e-10,)))
        close(outputs[0], ranking)
        close(outputs[1], sorting)
    elif loss is ap:
        value, expected = loop_interpolated_ap(logits.tolist(), ones(targets).tolist(), delta)
        close(outputs[0], value)
    else:
        errors = (1 - targets[targets > 0]).tolist()
        value, ranks, expected = loop_alrp_parts(
            logits.tolist(), ones(targets).tolist(), errors, delta, *(eps or (1e-5,))
        )
        close(outputs[0], value)
        close(outputs[1], ranks)
        positives = logits[targets > 0]
        assert outputs[2].dtype == torch.int64
        assert sorted(outputs[2].tolist()) == list(range(len(positives)))
        assert torch.equal(positives[outputs[2]], positives.sort().values)
    close(gradient, expected)


@ALL
@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
@pytest.mark.parametrize('sizes', SIZES, ids=str)
@pytest.mark.parametrize('delta', DELTAS)
def test_loops_over_the_definitions(loss, delta, sizes, tied):
    expect_loops(loss, *random_case(sum(sizes), *sizes, tied=tied), delta)


@pytest.mark.parametrize('loss', [rank_sort, alrp])
@pytest.mark.parametrize('eps', [0.0, 0.3, 2.0, 1e6])
def test_a_large_eps_leaves_updates_out(loss, eps):
    for seed in range(5):
        expect_loops(loss, *random_case(seed, 25, 60, 5), 1.0, eps)
    _, gradient = outputs_and_gradient(loss, *random_case(0, 25, 60, 5), 1.0, eps)
    assert gradient.any().item() is (eps < 1e6)


@pytest.mark.parametrize('case', cases_of(OUTPUTS))
def test_what_the_published_functions_returned(case):
    """Recorded by tests/support/record_published_outputs.py."""
    field = {key.split('/')[1]: OUTPUTS[key] for key in OUTPUTS.files if key.startswith(f'{case}/')}
    logits = torch.tensor(field['logits'], requires_grad=True)
    targets, delta = torch.tensor(field['targets']), float(field['delta'])
    eps = [float(field['eps'])] if 'eps' in field else []
    match str(field['loss']):
        case 'RankSort':
            outputs = list(RankSort.apply(logits, targets, delta, *eps))
        case 'APLoss':
            outputs = [APLoss.apply(logits, targets, delta)]
        case 'aLRPLoss':
            outputs = list(aLRPLoss.apply(logits, targets, torch.tensor(field['box_errors']), delta, *eps))[:2]
    for index, output in enumerate(outputs):
        assert output.dtype == torch.float32 and output.requires_grad
        torch.testing.assert_close(output.detach(), torch.tensor(field[f'output{index}']), rtol=1e-5, atol=1e-6)
    sum(scale * output.sum() for scale, output in zip(field['scales'].tolist(), outputs, strict=True)).backward()
    torch.testing.assert_close(logits.grad, torch.tensor(field['gradient']), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('case', [name for name in cases_of(GOLDEN) if f'{name}/rs_rank' in GOLDEN.files])
def test_golden_values_of_rank_sort(case):
    logits, targets, delta = (torch.tensor(GOLDEN[f'{case}/{name}']) for name in ('logits', 'targets', 'delta'))
    (ranking, sorting), gradient = outputs_and_gradient(rank_sort, logits, targets, delta.item())
    close(ranking, GOLDEN[f'{case}/rs_rank'], rtol=0, atol=1e-5)
    close(sorting, GOLDEN[f'{case}/rs_sort'], rtol=0, atol=1e-5)
    close(gradient, GOLDEN[f'{case}/rs_grad'], rtol=0, atol=1e-5)


def test_relation_to_the_functions():
    """RankSort is RS Loss; aLRPLoss and the recipe of its callers are aLRP Loss; APLoss is interpolated."""
    logits, targets = random_case(3, 30, 200, 10)
    (ranking, sorting), gradient = outputs_and_gradient(rank_sort, logits, targets)
    leaf = logits.clone().requires_grad_()
    parts = F.rs_loss(leaf, targets)
    parts.total.backward()
    close(torch.stack([ranking, sorting]), torch.stack(parts).detach())
    close(gradient, leaf.grad)

    box_errors = (1 - targets[targets > 0]).requires_grad_()
    loss, rank, order = aLRPLoss.apply(logits.requires_grad_(), ones(targets), box_errors)
    localization = (box_errors[order].flip(0).cumsum(0) / rank[order].detach().flip(0)).mean()
    expected = F.alrp_loss(logits, targets, box_errors)
    close(loss.detach(), expected.classification.detach())
    close(localization.detach(), expected.localization.detach())
    close(*(torch.autograd.grad(x, box_errors)[0] for x in (localization, expected.localization)))
    close(*(torch.autograd.grad(x, logits)[0] for x in (loss, expected.classification)))

    # Unsmoothed, a positive counts as 1 in AP Loss, too, and interpolation can only raise a precision.
    assert APLoss.apply(logits, ones(targets), 0.0) < F.ap_loss(logits, targets, 0.0)


def test_interpolation_by_hand():
    """Precisions 1/2, 2/3 and 3/5 of the positives, the highest first; the 1/2 becomes 2/3."""
    logits = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    (loss,), gradient = outputs_and_gradient(ap, logits, torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]), 0.0)
    assert loss.item() == pytest.approx((2 / 5 + 1 / 3 + 1 / 3) / 3)
    assert gradient.tolist() == pytest.approx([(1 / 5 + 1 / 3 + 1 / 3) / 3, -1 / 9, -1 / 9, 1 / 15, -2 / 15])


ENTRIES = st.lists(
    st.tuples(st.floats(-3, 3) | st.integers(-2, 2), st.sampled_from([-1.0, 0.0, 0.0, 0.0, 0.4, 0.8, 1.0])),
    min_size=1,
    max_size=25,
)


@ALL
@given(entries=ENTRIES, delta=st.sampled_from(DELTAS))
def test_any_entries_agree_with_the_loops(loss, entries, delta):
    logits, targets = (torch.tensor(column, dtype=torch.float64) for column in zip(*entries, strict=True))
    if (targets > 0).any():
        expect_loops(loss, logits, targets, delta)


@ALL
@example(entries=[(0.0, 0.4), (0.623046875, 0.0), (-1.0, 0.0)], delta=1.0, shift=0.0, seed=0)
@example(entries=[(0.0, 0.0), (0.0, 0.4), (-1.0, 0.0), (-1.0, 0.0)], delta=1.0, shift=0.0, seed=0)
@given(entries=ENTRIES, delta=st.sampled_from(DELTAS), shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_properties(loss, entries, delta, shift, seed):
    """Gradients sum to zero, errors lie in [0, 1); the order of the entries and a common shift do not matter."""
    logits, targets = (torch.tensor(column, dtype=torch.float64) for column in zip(*entries, strict=True))
    outputs, gradient = outputs_and_gradient(loss, logits, targets, delta)
    assert 0 <= outputs[0].item() < 1
    assert abs(gradient.sum().item()) < 1e-9
    assert (gradient[targets == 0] >= 0).all() and (gradient[targets < 0] == 0).all()
    assert loss is rank_sort or (gradient[targets > 0] <= 0).all()
    shuffled = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    again, its_gradient = outputs_and_gradient(loss, logits[shuffled], targets[shuffled], delta)
    close(again[0], outputs[0])
    close(its_gradient, gradient[shuffled])
    if delta >= 0.25:  # a shift rounds the logits, which a steep step multiplies
        moved, its_gradient = outputs_and_gradient(loss, logits + shift, targets, delta)
        close(moved[0], outputs[0], rtol=1e-9, atol=1e-12)
        close(its_gradient, gradient, atol=1e-9)


# How the published code belongs to autograd.


@ALL
def test_only_the_first_upstream_gradient_counts(loss):
    logits, targets = random_case(4, 12, 80, 5)
    logits.requires_grad_()
    outputs = [output for output in loss(logits, targets) if output.is_floating_point()]
    assert all(output.requires_grad for output in outputs)
    (gradient,) = torch.autograd.grad(outputs[0], logits, retain_graph=True)
    assert gradient.abs().sum() > 0
    for scale in (0.0, -2.5, 65536.0):
        (scaled,) = torch.autograd.grad(scale * outputs[0], logits, retain_graph=True)
        torch.testing.assert_close(scaled, scale * gradient, rtol=1e-15, atol=0)
    for other in outputs[1:]:
        (ignored,) = torch.autograd.grad(other.sum(), logits, retain_graph=True)
        assert ignored.eq(0).all()
        (same,) = torch.autograd.grad(outputs[0] + math.inf * other.sum(), logits, retain_graph=True)
        assert torch.equal(same, gradient)


def test_the_gradient_of_rank_sort_is_that_of_both_errors():
    """``(ranking + sorting).backward()`` as callers do, and ``ranking.backward()`` gives the same."""
    logits, targets = random_case(4, 12, 80, 5)
    logits.requires_grad_()
    both = torch.autograd.grad(sum(RankSort.apply(logits, targets)), logits)[0]
    first = torch.autograd.grad(RankSort.apply(logits, targets)[0], logits)[0]
    assert torch.equal(both, first)
    ranking_alone = torch.autograd.grad(F.rs_loss(logits, targets).ranking, logits)[0]
    assert not torch.allclose(both, ranking_alone)


@ALL
def test_twice_in_one_graph(loss):
    """Gradients of two calls add up; the graph can be walked twice; a gradient has a derivative in its scale."""
    logits, targets = random_case(5, 12, 80)
    other = torch.where(targets > 0, 0, torch.where(torch.arange(len(targets)) % 9 == 0, 0.6, 0.0)).to(targets)
    separate = outputs_and_gradient(loss, logits, targets)[1] + outputs_and_gradient(loss, logits, other)[1]
    leaf = logits.clone().requires_grad_()
    total = loss(leaf, targets)[0] + loss(leaf, other)[0]
    for times in (1, 2):
        total.backward(retain_graph=True)
        close(leaf.grad, times * separate)

    # As GradNorm does: the weight of a loss is learnt from the size of its gradient.
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(weight * loss(leaf, targets)[0], leaf, create_graph=True)
    gradient.abs().sum().backward()
    close(weight.grad, outputs_and_gradient(loss, logits, targets)[1].abs().sum())


@ALL
def test_through_a_network(loss):
    """The gradient reaches parameters, and no gradient is asked for where none is needed."""
    torch.manual_seed(0)
    layer, features = torch.nn.Linear(3, 4), torch.randn(50, 3)
    targets = torch.where(torch.rand(50, 4) < 0.1, 0.7, 0.0)
    value = loss(layer(features), targets)[0]
    value.backward()
    assert layer.weight.grad.abs().sum() > 0
    with torch.no_grad():
        layer.weight -= 0.5 * layer.weight.grad
        after = loss(layer(features), targets)[0]
    assert after < value and not after.requires_grad


def test_box_errors_get_no_gradient():
    logits, targets = random_case(6, 5, 20)
    box_errors = torch.rand(5, dtype=torch.float64, requires_grad=True)
    loss, rank, _ = aLRPLoss.apply(logits.requires_grad_(), ones(targets), box_errors)
    (loss + rank.sum()).backward()
    assert box_errors.grad is None and logits.grad.abs().sum() > 0


@pytest.mark.parametrize('function', [RankSort, APLoss, aLRPLoss])
def test_instances_as_heads_make_them(function):
    """``self.loss_rank = RankSort()`` in a head; heads are copied."""
    instance = copy.deepcopy(function())
    logits, targets = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    arguments = [logits, targets] + ([torch.tensor([0.5])] if function is aLRPLoss else [])
    first, again = (
        (result,) if torch.is_tensor(result) else result
        for result in (instance.apply(*arguments), function.apply(*arguments))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_defaults_and_names_are_the_published_ones():
    logits, targets = random_case(7, 12, 80)
    errors = 1 - targets[targets > 0]
    assert RankSort.apply(logits, targets) == RankSort.apply(logits=logits, targets=targets, delta_RS=0.5, eps=1e-10)
    assert APLoss.apply(logits, ones(targets)) == APLoss.apply(logits=logits, targets=ones(targets), delta=1.0)
    default = aLRPLoss.apply(logits, ones(targets), errors)
    named = aLRPLoss.apply(logits=logits, targets=ones(targets), regression_losses=errors, delta=1.0, eps=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(default, named, strict=True))


# Which entries take part.


def test_which_targets_are_positive():
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([0.0, 1.0, 0.7, 2.0, -1.0, 0.0], dtype=torch.float64)
    errors = torch.tensor([0.5], dtype=torch.float64)
    only_ones = torch.tensor([0.0, 1.0, -1.0, -1.0, -1.0, 0.0], dtype=torch.float64)
    for function, rest in ((APLoss, []), (aLRPLoss, [errors])):
        losses = [
            function.apply(logits, t, *rest) for t in (targets, only_ones, only_ones.long(), only_ones.to(torch.int8))
        ]
        first = [loss if torch.is_tensor(loss) else loss[0] for loss in losses]
        assert first[0] > 0 and all(loss == first[0] for loss in first)
    ranking, sorting, gradient = loop_rank_sort(logits.tolist(), targets.tolist(), 0.5, 1e-10)
    outputs, actual = outputs_and_gradient(rank_sort, logits, targets)
    close(torch.stack(outputs), [ranking, sorting])
    close(actual, gradient)
    booleans = RankSort.apply(logits, targets == 1)
    assert booleans == RankSort.apply(logits, (targets == 1).double()) and booleans[0] > 0


@ALL
@pytest.mark.parametrize('bad', INFINITIES)
def test_ignored_entries_take_no_part_whatever_they_hold(loss, bad):
    logits, targets = random_case(8, 8, 30, num_ignored=10)
    expected, gradient = outputs_and_gradient(loss, logits, targets)
    outputs, same = outputs_and_gradient(loss, logits.masked_fill(targets < 0, bad), targets)
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert torch.equal(same, gradient) and same[targets < 0].eq(0).all()


@ALL
@pytest.mark.parametrize('bad', INFINITIES)
@pytest.mark.parametrize('entry', ['positive', 'negative', 'negative without positives'])
def test_what_is_not_finite_makes_the_loss_nan(loss, bad, entry):
    logits, targets = random_case(9, 8, 30)
    if 'without' in entry:
        targets.clamp_(max=0)
    logits[(targets > 0 if entry == 'positive' else targets == 0).nonzero()[0]] = bad
    outputs, gradient = outputs_and_gradient(loss, logits, targets)
    assert outputs[0].isnan()
    assert gradient[targets > 0].isnan().all()


@ALL
@pytest.mark.parametrize('targets', [[0.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [0.0, -1.0, 0.0], []], ids=str)
def test_without_positives_values_are_zero_and_connected(loss, targets):
    logits = torch.arange(float(len(targets)), requires_grad=True)
    outputs = loss(logits, torch.tensor(targets))
    assert outputs[0] == 0 and outputs[0].requires_grad
    outputs[0].backward()
    assert torch.equal(logits.grad, torch.zeros(len(targets)))
    if loss is rank_sort:
        assert outputs[1] == 0 and outputs[1].requires_grad
    if loss is alrp:
        assert outputs[1].shape == outputs[2].shape == (0,) and outputs[2].dtype == torch.int64


@ALL
def test_without_negatives_nothing_is_misranked(loss):
    logits, targets = random_case(10, 10, 0, num_ignored=4)
    outputs, gradient = outputs_and_gradient(loss, logits, targets)
    assert outputs[0] == 0
    assert loss is rank_sort or gradient.eq(0).all()


@ALL
@pytest.mark.parametrize('delta', [0.0, 0.5])
def test_a_perfect_ranking_has_no_gradient(loss, delta):
    logits = torch.tensor([4.0, 3.0, -1.0, -2.0])
    outputs, gradient = outputs_and_gradient(loss, logits, torch.tensor([0.9, 0.8, 0.0, 0.0]), delta)
    assert outputs[0] == 0 and gradient.eq(0).all()


# Shapes, dtypes, devices, errors.


@ALL
def test_any_shape(loss):
    logits, targets = random_case(11, 15, 105)
    flat, gradient = outputs_and_gradient(loss, logits, targets)
    outputs, same = outputs_and_gradient(loss, logits.view(2, 3, 4, 5), targets.view(2, 3, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(outputs, flat, strict=True))
    assert torch.equal(same, gradient.view(2, 3, 4, 5))
    outputs, same = outputs_and_gradient(loss, logits.view(10, 12).t(), targets.view(10, 12).t())
    close(outputs[0], flat[0])
    close(same, gradient.view(10, 12).t())


@ALL
def test_in_inference_mode(loss):
    logits, targets = random_case(11, 15, 105)
    expected, _ = outputs_and_gradient(loss, logits, targets)
    with torch.inference_mode():
        found = loss(logits, targets)
    found = found if isinstance(found, tuple) else (found,)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@ALL
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    logits, targets = random_case(12, 20, 200, dtype=dtype)
    outputs, gradient = outputs_and_gradient(loss, logits, targets.float())
    expected, wanted = outputs_and_gradient(loss, logits.float(), targets.float())
    assert outputs[0].dtype == torch.float32 and gradient.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert torch.equal(gradient, wanted.to(dtype))


@ALL
def test_half_precision_holds_a_sum_that_would_overflow_it(loss):
    """A hundred thousand false positives are more than float16 can count."""
    logits = torch.full((100_001,), 2.0, dtype=torch.float16)
    logits[0] = -2
    targets = torch.zeros(100_001)
    targets[0] = 1
    outputs, gradient = outputs_and_gradient(loss, logits, targets, 1.0)
    own = 0.5 if loss is rank_sort else 1.0
    assert outputs[0].item() == pytest.approx(1e5 / (1e5 + own), rel=1e-6)
    assert gradient.isfinite().all() and gradient[0] == -1


@ALL
def test_float64_stays_float64_and_autocast_changes_nothing(loss):
    logits, targets = random_case(13, 20, 100)
    outputs, gradient = outputs_and_gradient(loss, logits, targets)
    assert outputs[0].dtype == gradient.dtype == torch.float64
    with torch.autocast('cpu', dtype=torch.bfloat16):
        again, same = outputs_and_gradient(loss, logits, targets)
    assert all(torch.equal(a, b) for a, b in zip(again, outputs, strict=True)) and torch.equal(same, gradient)


@ALL
@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
def test_what_an_accelerator_runs_says_the_same(loss, tied, monkeypatch):
    """Here on the CPU, so that every machine tests it."""
    logits, targets = random_case(14, 400, 3000, num_ignored=50, tied=tied)
    expected, wanted = outputs_and_gradient(loss, logits, targets)
    monkeypatch.setattr(devices, 'on_cpu', lambda tensor: False)
    outputs, gradient = outputs_and_gradient(loss, logits, targets)
    close(outputs[0], expected[0])
    close(gradient, wanted, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@ALL
def test_on_a_gpu(loss):
    logits, targets = random_case(15, 400, 3000, num_ignored=50, dtype=torch.float32)
    expected, wanted = outputs_and_gradient(loss, logits, targets)
    outputs, gradient = outputs_and_gradient(loss, logits.cuda(), targets.cuda())
    assert gradient.is_cuda and all(output.is_cuda for output in outputs)
    close(outputs[0].cpu(), expected[0], rtol=1e-5)
    close(gradient.cpu(), wanted, atol=1e-6)


@ALL
def test_waits_for_the_device_as_often_as_rs_loss(loss):
    logits, targets = random_case(16, 40, 300)
    errors, labels = 1 - targets[targets > 0], ones(targets)
    calls = {
        rank_sort: lambda: RankSort.apply(logits, targets),
        ap: lambda: APLoss.apply(logits, labels),
        alrp: lambda: aLRPLoss.apply(logits, labels, errors),
    }
    with CountSynchronisations() as expected:
        F.rs_loss(logits, targets)
    with CountSynchronisations() as counted:
        calls[loss]()
    assert 0 < counted.count <= expected.count


@pytest.mark.parametrize(
    ('arguments', 'error', 'words'),
    [
        (dict(targets=[0.0, 1.0]), TypeError, 'targets must be a torch.Tensor, got list'),
        (dict(logits=torch.tensor([1, 2])), TypeError, 'logits must be a floating-point tensor'),
        (dict(targets=torch.zeros(3)), ValueError, r'targets must have the shape of logits, \(2,\), got \(3,\)'),
        (dict(delta=-1.0), ValueError, 'delta must be finite and not negative, got -1.0'),
        (dict(delta=1e-12), ValueError, 'delta must be 0 or at least 1e-09'),
        (dict(delta=None), TypeError, 'delta must be a float'),
    ],
)
@pytest.mark.parametrize('function', [RankSort, APLoss, aLRPLoss])
def test_bad_input_is_named(function, arguments, error, words):
    given = dict(logits=torch.zeros(2), targets=torch.tensor([0.0, 1.0])) | arguments
    if function is aLRPLoss:
        given['regression_losses'] = torch.zeros(1)
    if function is RankSort and 'delta' in given:
        given['delta_RS'] = given.pop('delta')
    with pytest.raises(error, match=words):
        function.apply(**given)


@pytest.mark.parametrize('targets', [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], ids=str)
def test_regression_losses_that_are_not_one_for_each_positive(targets):
    number = int(sum(targets))
    words = rf'regression_losses must have the shape \({number},\), one for each entry whose target is 1, got \(1,\)'
    with pytest.raises(ValueError, match=words):
        aLRPLoss.apply(torch.zeros(3), torch.tensor(targets), torch.zeros(1))
    with pytest.raises(TypeError, match='regression_losses must be a torch'):
        aLRPLoss.apply(torch.zeros(3), torch.tensor(targets), [0.0] * number)


@pytest.mark.medium
def test_needs_torch_alone():
    """Not even numpy can be imported there."""
    code = """
import sys
for name in ('mmdet', 'mmcv', 'mmengine', 'numpy', 'scipy', 'torchvision'):
    sys.modules[name] = None
from bucketed_losses.compat import APLoss, RankSort, aLRPLoss
import torch
logits, targets = torch.randn(10, requires_grad=True), torch.eye(10)[0]
loss = sum(RankSort.apply(logits, targets)) + APLoss.apply(logits, targets)
(loss + aLRPLoss.apply(logits, targets, torch.zeros(1))[0]).backward()
assert not [name for name in sys.modules if name.startswith('bucketed_losses.') and 'mmdet' in name]
"""
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
