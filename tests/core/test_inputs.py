"""Dtypes, edge cases and bad input."""

from __future__ import annotations

import pytest
import torch
from cases import LOSSES, close_in_float64, random_case, value_and_grad

from bucketed_losses import functional as F

pytestmark = pytest.mark.stack

ALL = pytest.mark.parametrize('loss', [LOSSES[name] for name in sorted(LOSSES)], ids=sorted(LOSSES))


def total(result):
    return sum(result) if isinstance(result, tuple) else result


@ALL
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    logits, targets = random_case(1, 20, 200, dtype=dtype)
    value, grad = value_and_grad(loss, logits, targets.float(), 0.5)
    expected_value, expected_grad = value_and_grad(loss, logits.float(), targets.float(), 0.5)
    assert value.dtype == torch.float32 and grad.dtype == dtype
    assert value == expected_value
    assert torch.equal(grad, expected_grad.to(dtype))


@ALL
def test_half_precision_targets(loss):
    logits, targets = random_case(1, 20, 200, dtype=torch.float32)
    targets = targets.half()
    assert total(loss(logits, targets, 0.5)) == total(loss(logits, targets.float(), 0.5))


@ALL
@pytest.mark.parametrize('num_pos', [20, 1500])
def test_autocast_changes_nothing(loss, num_pos):
    logits, targets = random_case(2, num_pos, 300, dtype=torch.float32)
    expected = value_and_grad(loss, logits, targets, 0.5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = value_and_grad(loss, logits, targets, 0.5)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(a, b)


@ALL
def test_float64_stays_float64(loss):
    value, grad = value_and_grad(loss, *random_case(1, 5, 20), 0.5)
    assert value.dtype == grad.dtype == torch.float64


@ALL
@pytest.mark.parametrize('targets', [[0.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [0.0, -1.0, 0.0], []], ids=str)
def test_without_positives_the_loss_is_zero_and_connected(loss, targets):
    logits = torch.arange(float(len(targets)), requires_grad=True)
    value = total(loss(logits, torch.tensor(targets), 0.5))
    assert value == 0 and value.requires_grad
    value.backward()
    assert torch.equal(logits.grad, torch.zeros(len(targets)))


@ALL
def test_without_negatives_nothing_is_misranked(loss):
    logits, targets = random_case(3, 10, 0, num_ignored=4)
    result = loss(logits, targets, 0.5)
    assert (result[0] if isinstance(result, tuple) else result) == 0


@ALL
@pytest.mark.parametrize('delta', [0.0, 1.0])
def test_one_positive(loss, delta):
    # rank+ is H(0); one negative above by more than delta, one below by more.
    logits = torch.tensor([0.0, 5.0, -5.0])
    value, grad = value_and_grad(loss, logits, torch.tensor([0.7, 0.0, 0.0]), delta)
    error = 1 / (1 + (1.0 if delta == 0 else 0.5))
    assert value.item() == pytest.approx(error)
    assert grad.tolist() == pytest.approx([-error, error, 0.0])


@ALL
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_huge_logits(loss, dtype):
    logits, targets = random_case(4, 10, 100, dtype=dtype)
    value, grad = value_and_grad(loss, (1e4 * logits.sign()).to(dtype), targets.to(dtype), 0.5)
    assert torch.isfinite(value) and torch.isfinite(grad).all()
    assert abs(grad.double().sum()) < 1e-5


@ALL
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('entry', ['positive', 'negative'])
@pytest.mark.parametrize('num_pos', [3, 1500])
def test_a_logit_that_is_not_finite_makes_the_loss_nan(loss, bad, entry, num_pos):
    logits, targets = random_case(5, num_pos, 40)
    where = (targets > 0 if entry == 'positive' else targets == 0).nonzero()[0]
    logits[where] = bad
    value, grad = value_and_grad(loss, logits, targets, 0.5)
    assert value.isnan()
    assert grad[targets > 0].isnan().all()


@ALL
def test_nan_without_positives_and_in_targets(loss):
    assert total(loss(torch.tensor([float('nan'), 0.0]), torch.tensor([0.0, 0.0]), 0.5)).isnan()
    assert total(loss(torch.tensor([1.0, 0.0]), torch.tensor([float('nan'), 0.0]), 0.5)).isnan()


@ALL
def test_ignored_entries_take_no_part_whatever_they_hold(loss):
    logits, targets = random_case(6, 5, 30, num_ignored=10)
    expected, _ = value_and_grad(loss, logits, targets, 0.5)
    logits[targets < 0] = float('nan')
    value, grad = value_and_grad(loss, logits, targets, 0.5)
    assert value == expected
    assert grad[targets < 0].eq(0).all()


@ALL
def test_integer_and_bool_targets(loss):
    logits = torch.tensor([0.3, -0.2, 0.9, 0.1])
    expected = total(loss(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]), 0.5))
    assert total(loss(logits, torch.tensor([1, 0, 0, 1]), 0.5)) == expected
    assert total(loss(logits, torch.tensor([True, False, False, True]), 0.5)) == expected


@ALL
@pytest.mark.parametrize('num_pos', [0, 1, 40])
def test_known_positives(loss, num_pos):
    """Found or given, in any order: the same; what is positive but not given is ignored."""
    logits, targets = random_case(8, num_pos, 100, num_ignored=10)
    positives = (targets > 0).nonzero().squeeze(1).flip(0)
    found = value_and_grad(loss, logits, targets, 0.5)
    given = value_and_grad(lambda *args: loss(*args, positives=positives), logits, targets, 0.5)
    for a, b in zip(given, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    if num_pos > 1:
        ignoring = targets.index_fill(0, positives[5:], -1)
        expected = value_and_grad(loss, logits, ignoring, 0.5)
        given = value_and_grad(lambda *args: loss(*args, positives=positives[:5]), logits, targets, 0.5)
        for a, b in zip(given, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@ALL
@pytest.mark.parametrize(
    ('positives', 'error', 'words'),
    [
        ([0], TypeError, 'positives must be a torch.Tensor of indices, got list'),
        (torch.tensor([0.0]), TypeError, r'positives must be \(P,\) int64 indices, got \(1,\) torch.float32'),
        (torch.tensor([[0]]), TypeError, r'got \(1, 1\) torch.int64'),
        (torch.tensor([True]), TypeError, 'torch.bool'),
        (torch.tensor([0, 3]), ValueError, 'indices of the 3 flattened logits, got 0 to 3'),
        (torch.tensor([-1]), ValueError, 'got -1 to -1'),
        (torch.tensor([0, 1]), ValueError, 'whose target is above 0, got others among them'),
        (torch.tensor([0, 0]), ValueError, 'must be distinct, got 2 indices of 1 entries'),
        (
            torch.empty(0, dtype=torch.int64, device='meta'),
            ValueError,
            'must be on the device of logits, cpu, got meta',
        ),
    ],
    ids=['list', 'float', 'matrix', 'mask', 'beyond', 'below', 'negative', 'repeated', 'device'],
)
def test_bad_positives(loss, positives, error, words):
    with pytest.raises(error, match=words):
        loss(torch.zeros(3), torch.tensor([0.5, 0.0, -1.0]), 0.5, positives=positives)


@ALL
def test_input_is_not_modified_and_needs_no_grad(loss):
    logits, targets = random_case(7, 5, 30)
    copies = logits.clone(), targets.clone()
    assert not total(loss(logits, targets, 0.5)).requires_grad
    assert torch.equal(logits, copies[0]) and torch.equal(targets, copies[1])


@ALL
def test_many_gradients_in_one_call(loss):
    logits, targets = random_case(7, 5, 30)
    logits.requires_grad_()
    (once,) = torch.autograd.grad(total(loss(logits, targets, 0.5)), logits)
    (batch,) = torch.autograd.grad(
        total(loss(logits, targets, 0.5)), logits, torch.tensor([1.0, -2.0], dtype=once.dtype), is_grads_batched=True
    )
    close_in_float64(batch, torch.stack([once, -2 * once]), rtol=1e-6, atol=0)


@ALL
def test_where_torch_makes_tensors_elsewhere(loss):
    logits, targets = random_case(7, 50, 3000)
    expected = total(loss(logits, targets, 0.5))
    with torch.device('meta'):
        assert torch.equal(total(loss(logits, targets, 0.5)), expected)


@ALL
def test_second_derivatives_are_refused(loss):
    logits, targets = random_case(7, 5, 30)
    logits.requires_grad_()
    scale = torch.ones((), requires_grad=True)
    (grad,) = torch.autograd.grad(scale * total(loss(logits, targets, 0.5)), logits, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


X, T = torch.zeros(3), torch.tensor([1.0, 0.0, 0.0])


@ALL
@pytest.mark.parametrize(
    ('arguments', 'error', 'words'),
    [
        (([0.0], T, 0.5), TypeError, ['logits', 'torch.Tensor', 'list']),
        ((X, [1.0], 0.5), TypeError, ['targets', 'torch.Tensor', 'list']),
        ((X.long(), T, 0.5), TypeError, ['logits', 'floating-point', 'torch.int64']),
        ((X.to(torch.complex64), T, 0.5), TypeError, ['logits', 'floating-point', 'torch.complex64']),
        ((X, T.to(torch.complex64), 0.5), TypeError, ['targets', 'real', 'torch.complex64']),
        ((X, T[:2], 0.5), ValueError, ['targets', '(3,)', '(2,)']),
        ((X.reshape(3, 1), T, 0.5), ValueError, ['targets', '(3, 1)', '(3,)']),
        ((X, T.to('meta'), 0.5), ValueError, ['targets', 'cpu', 'meta']),
        ((X, T, -0.1), ValueError, ['delta', 'negative', '-0.1']),
        ((X, T, float('nan')), ValueError, ['delta', 'finite', 'nan']),
        ((X, T, float('inf')), ValueError, ['delta', 'finite', 'inf']),
        ((X, T, 1e-16), ValueError, ['delta', 'at least 1e-09', '1e-16']),
        ((X, T, '1'), TypeError, ['delta', 'float', 'str']),
        ((X, T, True), TypeError, ['delta', 'float', 'bool']),
        ((X, 3 * T, 0.5), ValueError, ['targets', 'exceed 1', '3']),
        ((X, torch.tensor([2, 0, 1]), 0.5), ValueError, ['targets', 'exceed 1', '2']),
    ],
)
def test_bad_input_is_named(loss, arguments, error, words):
    with pytest.raises(error) as caught:
        loss(*arguments)
    for word in words:
        assert word in str(caught.value)


def test_defaults_are_the_papers():
    logits, targets = random_case(8, 8, 60)
    assert F.ap_loss(logits, targets) == F.ap_loss(logits, targets, 1.0)
    assert F.bucketed_ap_loss(logits, targets) == F.bucketed_ap_loss(logits, targets, 1.0)
    assert F.rs_loss(logits, targets) == F.rs_loss(logits, targets, 0.5)
    assert F.bucketed_rs_loss(logits, targets) == F.bucketed_rs_loss(logits, targets, 0.5)


@ALL
@pytest.mark.parametrize('num_pos', [1, 2, 5, 8, 1024])
def test_a_target_that_is_not_a_number_makes_the_loss_nan_even_where_positives_are_given(loss, num_pos):
    """The IoU of a diverged network's box: the training reports the loss, not the argument."""
    logits, targets = random_case(9, num_pos, 20)
    positives = (targets > 0).nonzero().squeeze(1)
    targets[positives[num_pos // 2]] = torch.nan
    assert total(loss(logits, targets, 0.5, positives=positives)).isnan()


@pytest.mark.parametrize('loss', [F.ap_loss, F.rs_loss])
@pytest.mark.parametrize('delta', [1e-9, 1e-7])
def test_the_smallest_delta_is_still_accurate(loss, delta):
    """Against the definition, with logits that lie on the ramp of each other."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, generator=generator).mul(8).round().div(8).double()
    logits += (torch.rand(300, generator=generator).double() - 0.5) * 4 * delta
    targets = torch.where(torch.rand(300, generator=generator) < 0.2, 0.7, 0.0).double()
    positives, negatives = logits[targets > 0].unsqueeze(1), logits[targets == 0]

    def steps(keys):
        return ((keys - positives) / (2 * delta) + 0.5).clamp(0, 1).sum(1)

    false_positives = steps(negatives)
    ranking = (false_positives / (false_positives + steps(positives.squeeze(1)))).mean()
    result = loss(logits, targets, delta)
    torch.testing.assert_close(result[0] if isinstance(result, tuple) else result, ranking, rtol=0, atol=1e-6)
