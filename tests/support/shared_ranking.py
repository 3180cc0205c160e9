"""The losses across processes, and the bytes that they exchange."""

from __future__ import annotations

import torch.distributed as dist
from cases import LOSSES, random_case, value_and_grad
from gloo import CountCollectives


def across(loss, group=None, **kwargs):
    return lambda *args: loss(*args, group=group or dist.group.WORLD, **kwargs)


def run_bytes(*nums_neg):
    """Bytes that this process gives to the collectives of each loss, for growing numbers of negatives."""
    sizes = []
    for num_neg in nums_neg:
        logits, targets = random_case(dist.get_rank(), 50, num_neg)
        for loss in LOSSES.values():
            with CountCollectives() as collectives:
                value_and_grad(across(loss), logits, targets, 0.5)
            sizes.append(sum(collectives.bytes))
    return sizes
