"""The losses that the benchmark compares with: those of MMDetection, value, gradient and operations."""

from __future__ import annotations

import math

import pytest
import torch
from operations import CountElementOperations, CountOperations
from usual_losses import cross_entropy_loss, focal_loss, quality_focal_loss


def case(num=500):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, generator=generator)
    qualities = torch.rand(num, generator=generator)
    return logits, torch.where(qualities < 0.9, 0.0, qualities)


def value_and_grad(loss, logits):
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.stack
def test_they_equal_a_loop():
    logits, qualities = case(60)
    focal, quality_focal, cross_entropy = [], [], []
    for x, q in zip(logits.tolist(), qualities.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        focal.append(-0.25 * (1 - p) ** 2 * math.log(p) if q else -0.75 * p**2 * math.log(1 - p))
        quality_focal.append(abs(q - p) ** 2 * -(q * math.log(p) + (1 - q) * math.log(1 - p)))
        cross_entropy.append(-math.log(p if q else 1 - p))
    is_positive = (qualities > 0).float()
    for got, expected in (
        (focal_loss(logits, is_positive), focal),
        (quality_focal_loss(logits, qualities), quality_focal),
        (cross_entropy_loss(logits, is_positive), cross_entropy),
    ):
        assert got.item() == pytest.approx(sum(expected) / 60, rel=1e-5)


def test_they_equal_the_losses_of_mmdetection():
    """On a CPU: the same values and gradients. Focal loss touches as many elements.

    MMDetection's other losses touch more, because they also have classes, weights and ignored entries.
    """
    losses = pytest.importorskip('mmdet.models.losses')
    logits, qualities = case()
    is_positive, labels = (qualities > 0).float(), (qualities == 0).long()
    focal, quality_focal = losses.FocalLoss(), losses.QualityFocalLoss()
    cross_entropy = losses.CrossEntropyLoss(use_sigmoid=True)
    column = is_positive.view(-1, 1)
    pairs = {
        'focal': (lambda x: focal_loss(x, is_positive), lambda x: focal(x, column)),
        'quality focal': (
            lambda x: quality_focal_loss(x, qualities),
            lambda x: quality_focal(x, (labels, qualities)),
        ),
        'cross-entropy': (lambda x: cross_entropy_loss(x, is_positive), lambda x: cross_entropy(x, column)),
    }
    for name, (ours, theirs) in pairs.items():
        totals = []
        for loss in (ours, lambda x, loss=theirs: loss(x.view(-1, 1))):
            with CountElementOperations() as counted:
                value, grad = value_and_grad(loss, logits)
            totals.append((counted.total, value, grad))
        (touched, *got), (touched_there, *expected) = totals
        torch.testing.assert_close(got, expected)
        assert touched <= touched_there
        if name == 'focal':
            assert touched == pytest.approx(touched_there, rel=0.01)


@pytest.mark.stack
def test_what_is_touched_at_indices():
    """Elements that are read or written, and not those of the tensor that they are in."""
    values, indices = torch.zeros(1000), torch.arange(10)

    def touched(function):
        with CountElementOperations() as counted:
            function()
        return counted.touched

    assert touched(lambda: values.index_select(0, indices)) == 10
    assert touched(lambda: values.index_fill_(0, indices, 1.0)) == 10
    assert touched(lambda: values.scatter_(0, indices, torch.ones_like(indices, dtype=torch.float32))) == 20
    assert touched(lambda: values.add(1)) == 1000
    with CountOperations() as counted:
        values.take(indices)
    assert counted.names == ['take']
