"""What ``benchmark_losses.py`` compares: cases, and losses that run on them. Torch is the only import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from published_algorithms.bucketed_by_matrices import bucketed_by_matrices
from published_algorithms.loop_over_positives import loop_over_positives
from report_benchmark import LOOPS
from synthetic_data import synthetic_logits
from torch import Tensor
from torch.utils._pytree import tree_flatten
from usual_losses import cross_entropy_loss, focal_loss, quality_focal_loss

from bucketed_losses import functional

AP_DELTA, RS_DELTA = 1.0, 0.5


@dataclass
class Case:
    """Flat logits and targets (0 negative, (0, 1] positive, below 0 ignored) under a name."""

    data: str
    logits: Tensor
    targets: Tensor
    positives: int = field(init=False)

    def __post_init__(self) -> None:
        self.positives = int((self.targets > 0).sum())
        self.leaf = self.logits.detach().requires_grad_()
        self.is_positive = (self.targets > 0).to(self.logits.dtype)
        self.positive_entries = (self.targets > 0).nonzero().squeeze(1)
        self.box_errors = (1 - self.targets[self.positive_entries]).requires_grad_()

    def with_positives(self, number: int) -> Case:
        """The same with all positives but the first ``number`` ignored: a loop over them is that much shorter."""
        rest = (self.targets > 0).nonzero().squeeze(1)[number:]
        return Case(self.data, self.logits, self.targets.index_fill(0, rest, -1))


def synthetic(number: int, positives: int, data: str, device: torch.device, seed: int = 0) -> Case:
    """A case of ``number`` logits; see :func:`synthetic_data.synthetic_logits`."""
    logits, targets = synthetic_logits(number, positives, data, seed)
    return Case(data, logits.to(device), targets.to(device))


@dataclass
class Loss:
    """One contestant: ``run(case)`` is forward and backward; what it would need can be told before it is tried."""

    name: str
    run: Callable[[Case], Any]
    matrices: int = 0
    """Float32 matrices of P x P that are alive at once."""

    @property
    def loops(self) -> bool:
        return self.name in LOOPS


def losses() -> list[Loss]:
    """All contestants; ours first."""

    def ours(function: Callable[..., Any], delta: float) -> Callable[[Case], None]:
        def run(case: Case) -> None:
            result = function(case.leaf, case.targets, delta)
            torch.stack(tree_flatten(result)[0]).sum().backward()

        return run

    def alrp(case: Case) -> None:
        # A positive's IoU gives the error of its box.
        parts = functional.alrp_loss(
            case.leaf, case.targets, case.box_errors, AP_DELTA, positives=case.positive_entries
        )
        torch.stack(list(parts)).sum().backward()
        case.box_errors.grad = None

    def dr(case: Case) -> None:
        functional.dr_loss(case.leaf, case.targets).backward()

    def usual(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Case], None]:
        return lambda case: function(case.leaf, case.is_positive).backward()

    def reference(function: Callable[..., Any], delta: float, sort: bool) -> Callable[[Case], None]:
        return lambda case: function(case.logits, case.targets, delta, sort)

    return [
        Loss('AP', ours(functional.ap_loss, AP_DELTA)),
        Loss('BAP', ours(functional.bucketed_ap_loss, AP_DELTA)),
        Loss('RS', ours(functional.rs_loss, RS_DELTA)),
        Loss('BRS', ours(functional.bucketed_rs_loss, RS_DELTA)),
        Loss('aLRP', alrp),
        Loss('DR', dr),
        Loss('focal', usual(focal_loss)),
        Loss('quality focal', usual(quality_focal_loss)),
        Loss('cross-entropy', usual(cross_entropy_loss)),
        Loss('sort', lambda case: case.logits.sort()),
        Loss('read + write', lambda case: case.logits.mul(2)),
        Loss('BAP by matrices', reference(bucketed_by_matrices, AP_DELTA, False), matrices=4),
        Loss('BRS by matrices', reference(bucketed_by_matrices, RS_DELTA, True), matrices=6),
        Loss('AP by loop', reference(loop_over_positives, AP_DELTA, False)),
        Loss('RS by loop', reference(loop_over_positives, RS_DELTA, True)),
    ]
