"""Logits of scores that two branches compute together.

Detection sorts boxes by the score, so a ranking loss has to rank the score and not one of its parts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..losses.box_weighting import at_least_float32


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit of ``sigmoid(a) * sigmoid(b)``, float32 (or float64): ``a + b - log(1 + exp(a) + exp(b))``.

    Args:
        a, b: Logits of two branches, of shapes that broadcast.
    """
    a, b = torch.broadcast_tensors(at_least_float32(a), at_least_float32(b))
    return a + b - torch.stack([torch.zeros_like(a), a, b]).logsumexp(dim=0)


def geometric_mean_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit of ``sqrt(sigmoid(a) * sigmoid(b))``, float32 (or float64); arguments as for :func:`product_logit`."""
    log_mean = (logsigmoid(at_least_float32(a)) + logsigmoid(at_least_float32(b))) / 2
    complement = -torch.expm1(log_mean)
    return log_mean - complement.clamp(min=torch.finfo(complement.dtype).tiny).log()
