"""Observes the ranking losses of a running detector: the logits and targets of each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.losses import RankingLoss, RowSets
from ..models.losses.ranking_losses import entry_targets


class RankedBatch(NamedTuple):
    """The inputs and outputs of one ranking: those of a call of a ranking loss, or of one set of rows of a call.

    Attributes:
        name: The path of the loss in the model, e.g. ``bbox_head.loss_cls``.
        logits: ``(n, num_classes)``, detached.
        targets: ``(n, num_classes)``: 0 negative, above 0 the IoU of a positive, below 0 ignored.
        errors: The returned scalars divided by ``loss_weight``: ``loss_rank`` and, for RS losses, ``loss_sort``. Those
            of a loss with a memory are of the batch and the remembered ones together.
    """

    name: str
    logits: Tensor
    targets: Tensor
    errors: dict[str, Tensor]


@contextmanager
def watch_ranking_losses(
    model: nn.Module,
    watch: Callable[[RankedBatch], None],
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[list[str]]:
    """Call ``watch`` whenever a ranking loss of the model is computed; yields the names of these losses.

    If a call ranks many sets of rows, ``watch`` is called for each set. This makes the host wait for an accelerator.
    Otherwise nothing is copied to the host. Nothing is added to the graph.

    Args:
        model: The detector.
        watch: The function that receives each batch.
        guard: Returns a context manager in which a batch is prepared and passed to ``watch``. This happens during the
            forward pass of the model, and an exception would stop the run. In training, use the guard of an observer
            (:class:`~bucketed_losses.mmdet.engine.observers.ObserverGuard`), which catches exceptions.
    """

    def watcher(name: str) -> Callable:
        def after(module: RankingLoss, args: tuple, kwargs: dict, output: dict[str, Tensor]) -> None:
            with guard(), torch.no_grad():
                given: dict[str, Any] = {**dict(zip(('pred', 'target', 'weight'), args, strict=False)), **kwargs}
                target = given['target']
                labels, ious = target if isinstance(target, (tuple, list)) else (target, None)
                pred = given['pred'].detach()
                targets = entry_targets(pred, labels, ious, given.get('weight'))
                errors = {key: value.detach() / (module.loss_weight or 1.0) for key, value in output.items()}
                sets: RowSets | None = given.get('sets')
                if sets is None:
                    watch(RankedBatch(name, pred, targets, errors))
                    return
                for index in range(sets.num):
                    own = sets.of_rows == index
                    parts = {key: values[index] for key, values in errors.items()}
                    watch(RankedBatch(name, pred[own], targets[own], parts))

        return after

    losses = {name: module for name, module in model.named_modules() if isinstance(module, RankingLoss)}
    handles = [module.register_forward_hook(watcher(name), with_kwargs=True) for name, module in losses.items()]
    try:
        yield list(losses)
    finally:
        for handle in handles:
            handle.remove()
