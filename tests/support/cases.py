"""Random inputs of the losses and how gradients are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from bucketed_losses import functional as F
from bucketed_losses.compat import APLoss, RankSort, aLRPLoss

LOSSES = {
    'ap_loss': F.ap_loss,
    'bucketed_ap_loss': F.bucketed_ap_loss,
    'rs_loss': F.rs_loss,
    'bucketed_rs_loss': F.bucketed_rs_loss,
}
# The functions of the losses in MMDetection's registry, by their types.
REGISTERED = {
    'APLoss': F.ap_loss,
    'BucketedAPLoss': F.bucketed_ap_loss,
    'RSLoss': F.rs_loss,
    'BucketedRSLoss': F.bucketed_rs_loss,
}
# The replacements for published code, called with IoUs as targets like the others.
REPLACEMENTS = {
    'compat.RankSort': RankSort.apply,
    'compat.APLoss': lambda logits, targets: APLoss.apply(logits, targets > 0),
    'compat.aLRPLoss': lambda logits, targets: aLRPLoss.apply(logits, targets > 0, 1 - targets[targets > 0])[0],
}
DELTAS = (0.0, 1e-3, 0.25, 0.5, 1.0, 5.0)


def random_case(
    seed: int, num_pos: int, num_neg: int, num_ignored: int = 0, tied: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Shuffled logits and targets; ``tied`` puts logits on a grid of 1/4 and labels on one of 1/5."""
    generator = torch.Generator().manual_seed(seed)
    num = num_pos + num_neg + num_ignored
    logits = 1.5 * torch.randn(num, generator=generator, dtype=torch.float64)
    ious = torch.rand(num, generator=generator, dtype=torch.float64).clamp(min=0.01)
    if tied:
        logits, ious = (4 * logits).round() / 4, (5 * ious).ceil() / 5
    targets = ious
    targets[num_pos : num_pos + num_neg] = 0
    targets[num_pos + num_neg :] = -1
    order = torch.randperm(num, generator=generator)
    return logits[order].to(dtype), targets[order].to(dtype)


def value_and_grad(loss, logits: Tensor, targets: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """The loss (the sum of its parts) and its gradient."""
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, targets, delta)
    value = sum(value) if isinstance(value, tuple) else value
    (grad,) = torch.autograd.grad(value, logits)
    return value.detach(), grad


def close_in_float64(actual: object, expected: object, rtol: float, atol: float) -> None:
    """Compare numbers, lists or tensors as float64."""
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=rtol,
        atol=atol,
    )
