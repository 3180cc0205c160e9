"""The logits of products and geometric means of probabilities, against float64, also far from 0."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip('mmdet')

from bucketed_losses.mmdet.models.dense_heads.joint_logits import geometric_mean_logit, product_logit

VALUES = torch.tensor([-40.0, -12.0, -3.0, -0.5, 0.0, 0.7, 4.0, 9.0, 30.0])


def probabilities(function, a, b):
    product = a.sigmoid() * b.sigmoid()
    return product if function is product_logit else product.sqrt()


@pytest.mark.parametrize('function', [product_logit, geometric_mean_logit])
def test_values_and_gradients_equal_float64(function):
    pairs = torch.cartesian_prod(VALUES, VALUES)
    a, b = (column.clone().requires_grad_() for column in pairs.unbind(1))
    logits = function(a, b)
    got = torch.autograd.grad(logits.sum(), (a, b))
    a64, b64 = (column.double().clone().requires_grad_() for column in pairs.unbind(1))
    p = probabilities(function, a64, b64)
    # 1 - p without cancellation: 1 - st = (1 - s) + s (1 - t), and 1 - sqrt(st) = (1 - st) / (1 + sqrt(st)).
    rest = (-a64).sigmoid() + a64.sigmoid() * (-b64).sigmoid()
    expected = p.log() - (rest if function is product_logit else rest / (1 + p)).log()
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(got, torch.autograd.grad(expected.sum(), (a64, b64)), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize('function', [product_logit, geometric_mean_logit])
def test_bfloat16_is_computed_in_float32_and_shapes_broadcast(function):
    logits = function(torch.randn(5, 3).bfloat16(), torch.randn(5, 1).bfloat16())
    assert logits.shape == (5, 3) and logits.dtype == torch.float32


@pytest.mark.parametrize('function', [product_logit, geometric_mean_logit])
def test_very_large_logits_stay_finite(function):
    big = torch.tensor([200.0, -200.0], requires_grad=True)
    logits = function(big, big)
    logits.sum().backward()
    assert logits.isfinite().all() and big.grad.isfinite().all()
