"""Indices and IoUs of the positives in place of a dense tensor of targets."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from cases import LOSSES, random_case
from operations import CountOperations
from torch._subclasses.fake_tensor import FakeTensorMode

from bucketed_losses import functional as F
from bucketed_losses.core.devices import as_on_an_accelerator

pytestmark = pytest.mark.stack

EACH = pytest.mark.parametrize('name', sorted(LOSSES))


def both_targets(seed, *sizes, dtype=torch.float64):
    """Logits, dense targets, and the same targets in another order of the positives."""
    logits, targets = random_case(seed, *sizes, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    positives = (targets > 0).nonzero().squeeze(1)
    positives = positives[torch.randperm(len(positives), generator=generator)]
    ignored = targets < 0 if (targets < 0).any() else None
    return logits, targets, F.SparseTargets(positives, targets[positives], ignored)


def value_and_grad(loss, logits, targets, **arguments):
    logits = logits.clone().requires_grad_()
    result = loss(logits, targets, **arguments)
    value = result.total if isinstance(result, tuple) else result
    value.sum().backward()
    return value.detach(), logits.grad


@EACH
@pytest.mark.parametrize('grouped', [False, True], ids=['one', 'groups'])
@pytest.mark.parametrize('accelerator', [False, True], ids=['cpu', 'accelerator'])
@pytest.mark.parametrize('delta', [0.0, 0.5])
def test_it_equals_dense_targets(name, delta, accelerator, grouped):
    for sizes in [(0, 30, 0), (1, 30, 0), (30, 200, 0), (30, 200, 20), (30, 0, 0)]:
        logits, dense, sparse = both_targets(1, *sizes)
        arguments = dict(groups=torch.arange(len(logits)) % 3, num_groups=3) if grouped else {}
        with as_on_an_accelerator() if accelerator else nullcontext():
            expected = value_and_grad(LOSSES[name], logits, dense, delta=delta, **arguments)
            got = value_and_grad(LOSSES[name], logits, sparse, delta=delta, **arguments)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@EACH
def test_shapes_and_dtypes(name):
    """Indices of flattened logits; half-precision logits and IoUs."""
    logits, dense, sparse = both_targets(2, 12, 48, dtype=torch.float32)
    expected, grad = value_and_grad(LOSSES[name], logits, dense)
    value, grad_of_matrix = value_and_grad(LOSSES[name], logits.view(12, 5), sparse)
    assert value == expected and torch.equal(grad_of_matrix.view(-1), grad)
    half = sparse._replace(ious=sparse.ious.bfloat16())
    expected, _ = value_and_grad(LOSSES[name], logits, dense.index_put((half.positives,), half.ious.float()))
    assert value_and_grad(LOSSES[name], logits, half)[0] == expected


@EACH
@pytest.mark.parametrize('grouped', [False, True], ids=['one', 'groups'])
@pytest.mark.parametrize('accelerator', [False, True], ids=['cpu', 'accelerator'])
def test_an_iou_that_is_not_finite_makes_the_loss_nan(name, accelerator, grouped):
    logits, _, sparse = both_targets(3, 9, 30)
    sparse.ious[4] = torch.nan
    arguments = dict(groups=torch.zeros(39, dtype=torch.int64), num_groups=1) if grouped else {}
    with as_on_an_accelerator() if accelerator else nullcontext():
        assert value_and_grad(LOSSES[name], logits, sparse, **arguments)[0].isnan().all()


@EACH
def test_an_iou_of_zero_is_a_positive(name):
    logits, dense, sparse = both_targets(4, 5, 20)
    tiny = dense.index_fill(0, sparse.positives, 1e-300)
    zero = sparse._replace(ious=torch.zeros(5, dtype=torch.float64))
    for a, b in zip(
        value_and_grad(LOSSES[name], logits, zero), value_and_grad(LOSSES[name], logits, tiny), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.usefixtures('fake_cuda')
@EACH
def test_it_waits_for_nothing(name):
    with FakeTensorMode():
        logits = torch.empty(50_000, device='cuda', requires_grad=True)
        indices = torch.empty(300, dtype=torch.int64, device='cuda')
        ignored = torch.empty(50_000, dtype=torch.bool, device='cuda')
        result = LOSSES[name](logits, F.SparseTargets(indices, torch.empty(300, device='cuda'), ignored))
        assert (result.total if isinstance(result, tuple) else result).device.type == 'cuda'


@EACH
def test_its_tensors_of_all_entries_are_one_byte_each(name):
    """What it makes in place of targets: one int8 for each entry."""
    sparse = both_targets(5, 9, 30)[2]
    with CountOperations() as counted:
        kinds = sparse.kinds(39)
    assert len(counted.names) == 2 and kinds.dtype == torch.int8


def test_a_mask_of_rows_is_read_once():
    """An expanded column, as heads give it: no copy of it, and -1 wherever it is True."""
    ignored = torch.tensor([[True], [False], [True]]).expand(3, 4)
    sparse = F.SparseTargets(torch.tensor([5]), torch.tensor([0.5]), ignored)
    with CountOperations() as counted:
        kinds = sparse.kinds(12)
    assert kinds.tolist() == [-1] * 4 + [0, 1, 0, 0] + [-1] * 4 and kinds.dtype == torch.int8
    assert counted.names == ['neg', 'index_fill_.int_Scalar']


X, P, T = torch.zeros(3), torch.tensor([0, 2]), torch.tensor([0.5, 1.0])


@EACH
@pytest.mark.parametrize(
    ('targets', 'error', 'words'),
    [
        (F.SparseTargets([0, 2], T), TypeError, 'positives must be a torch.Tensor of indices, got list'),
        (F.SparseTargets(P.float(), T), TypeError, r'positives must be \(P,\) int64 indices, got \(2,\) torch.float32'),
        (F.SparseTargets(P + 1, T), ValueError, 'indices of the 3 flattened logits, got 1 to 3'),
        (F.SparseTargets(P * 0, T), ValueError, 'must be distinct, got 2 indices of 1 entries'),
        (F.SparseTargets(P, T[:1]), ValueError, r'targets.ious must have the shape of targets.positives, \(2,\), got'),
        (F.SparseTargets(P, P), TypeError, 'targets.ious must be a floating-point tensor, got torch.int64'),
        (F.SparseTargets(P, 2 * T), ValueError, r'targets.ious must lie in \[0, 1\], got 1 to 2'),
        (F.SparseTargets(P, -T), ValueError, r'targets.ious must lie in \[0, 1\], got -1 to -0.5'),
        (F.SparseTargets(P, T, X), TypeError, 'targets.ignored must be a bool tensor or None, got torch.float32'),
        (F.SparseTargets(P, T, X[:2] > 0), ValueError, r'targets.ignored must have the shape of logits, \(3,\), got'),
        (F.SparseTargets(P, T, X == 0), ValueError, 'targets.positives must not be ignored'),
    ],
)
def test_bad_sparse_targets(name, targets, error, words):
    with pytest.raises(error, match=words):
        LOSSES[name](X, targets, 0.5)


@EACH
def test_positives_are_given_once(name):
    with pytest.raises(ValueError, match='positives must not be given if targets are SparseTargets'):
        LOSSES[name](X, F.SparseTargets(P, T), 0.5, positives=P)
