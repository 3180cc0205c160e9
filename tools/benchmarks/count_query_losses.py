"""Counts what the losses of a query head launch on an accelerator in a training step, as Markdown.

python tools/benchmarks/count_query_losses.py [CONFIG] [--images 2] [--size 320 480] [--objects 7]

The detector of the config computes the losses of one step from random features; by default it is BRS-DETR. Then the
losses of its query head are computed again from the same predictions and targets, forward and backward: with one call
of the ranking loss for all sets of queries, and with a call for each set, which has to find its positives. Operations
do not include views. Waits are operations whose result the host reads. No accelerator is needed: a CPU runs the same
operations. The first milliseconds are a model, the number of operations times 5 microseconds for a launch, and not a
measurement. The second are measured on this CPU: medians of ``--repeats`` calls that take turns, forward and backward.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from count_operations import MILLISECONDS_PER_LAUNCH
from measuring import seconds_of
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.runner import set_random_seed
from operations import CountOperations
from torch import nn

from bucketed_losses.core.devices import as_on_an_accelerator
from bucketed_losses.errors import UserError, one_line_errors
from bucketed_losses.mmdet.engine.config import enter_scope
from bucketed_losses.mmdet.models.dense_heads import QueryRankingMixin, QuerySet
from bucketed_losses.mmdet.models.losses import RankingLoss

BRS_DETR = Path(__file__).resolve().parents[2] / 'configs/brs_detr/brs-detr_r50_8xb2-12e_coco.py'


def sets_of_a_step(
    config: str, num_images: int, size: Sequence[int], num_objects: int
) -> tuple[QueryRankingMixin, list[QuerySet], list[dict], int]:
    """The query head, the sets whose losses it computes in a step, the images, and all calls of ranking losses."""
    cfg = Config.fromfile(config)
    enter_scope(cfg)
    set_random_seed(0)  # also of NumPy, with which MMDetection samples
    host, kind = (MODELS.get(part.get('type', '')) for part in (cfg.model, cfg.model.get('bbox_head') or {}))
    if kind is None or not issubclass(kind, QueryRankingMixin):
        raise UserError(f'{config} has no query head with a ranking loss')
    given: dict[str, Any] = {}

    class Head(kind):  # type: ignore[valid-type, misc]
        def query_losses(self, sets: Sequence[QuerySet], batch_img_metas: list[dict]) -> dict[str, torch.Tensor]:
            given.update(sets=list(sets), metas=batch_img_metas)
            return super().query_losses(sets, batch_img_metas)

    class Detector(host):  # type: ignore[valid-type, misc]
        def extract_feat(self, batch_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            height, width = batch_inputs.shape[-2:]
            strides = [8 * 2**level for level in range(self.num_feature_levels)]
            shape = (len(batch_inputs), self.embed_dims)
            return tuple(torch.randn(*shape, -(-height // s), -(-width // s)) for s in strides)

    cfg.model.type, cfg.model.bbox_head.type = Detector, Head
    model = MODELS.build(cfg.model).train()  # no init_weights: nothing is downloaded
    head = model.bbox_head
    inputs = demo_mm_inputs(
        num_images, [[3, *size]] * num_images, num_items=[num_objects] * num_images, num_classes=head.num_classes
    )
    batch = model.data_preprocessor(inputs, training=True)
    calls = count_calls(model)
    with as_on_an_accelerator():
        model(**batch, mode='loss')
    return head, given['sets'], given['metas'], len(calls)


def count_calls(model: nn.Module) -> list[str]:
    """A list that gets longer with every call of a ranking loss of the model."""
    calls: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, RankingLoss):
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    return calls


def step(losses: Callable, sets: Sequence[QuerySet]) -> None:
    """``losses(sets)`` and its backward pass to logits and boxes."""
    leaves = [
        one._replace(logits=one.logits.detach().requires_grad_(), boxes=one.boxes.detach().requires_grad_())
        for one in sets
    ]
    torch.stack(list(losses(leaves).values())).sum().backward()


def count(losses: Callable, sets: Sequence[QuerySet]) -> CountOperations:
    """Operations of a step on an accelerator."""
    with as_on_an_accelerator(), CountOperations() as counted:
        step(losses, sets)
    return counted


def milliseconds_of(losses: Callable, sets: Sequence[QuerySet], repeats: int) -> tuple[float, float]:
    """Median milliseconds of a step on this CPU, which take turns: with a call for each set, and with one call."""
    seconds: tuple[list[float], list[float]] = ([], [])
    contexts: tuple[Callable, Callable] = (nullcontext, as_on_an_accelerator)
    for _ in range(repeats):
        for measured, context in zip(seconds, contexts, strict=True):
            with context():
                measured.append(seconds_of(lambda: step(losses, sets), torch.device('cpu')))
    return 1000 * median(seconds[0]), 1000 * median(seconds[1])


def without_positives(one: QuerySet) -> QuerySet:
    """The same set, but its positives have to be found."""
    return one._replace(targets=one.targets._replace(positive=None))


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', nargs='?', default=str(BRS_DETR), metavar='CONFIG')
    parser.add_argument('--images', type=int, default=2, help='images in the batch')
    parser.add_argument('--size', type=int, nargs=2, default=[320, 480], help='height and width of the images')
    parser.add_argument('--objects', type=int, default=7, help='objects in each image')
    parser.add_argument('--repeats', type=int, default=20, help='calls to measure')
    args = parser.parse_args(argv)
    head, sets, metas, num_calls = sets_of_a_step(args.config, args.images, args.size, args.objects)
    num_pos = sum(len(one.targets.positive) for one in sets if one.targets.positive is not None)
    num_logits = sum(one.logits.numel() for one in sets)
    print(f'{len(sets)} sets, {num_logits} logits, {num_pos} positives; calls of ranking losses in a step: ', end='')
    print(f'{num_calls}, or {num_calls - 1 + len(sets)} with a call for each set\n')

    def separately(sets: Sequence[QuerySet]) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = {}
        for one in sets:
            losses |= head.query_losses([without_positives(one)], metas)
        return losses

    def together(sets: Sequence[QuerySet]) -> dict[str, torch.Tensor]:
        return head.query_losses(sets, metas)

    counts = {'a call for each set': count(separately, sets), 'one call': count(together, sets)}
    measured = milliseconds_of(together, sets, args.repeats)
    print('| losses of the query head | operations | waits | ms (model) | ms on this CPU |')
    print('|---' * 5 + '|')
    for (name, counted), on_cpu in zip(counts.items(), measured, strict=True):
        operations = len(counted.names)
        model = operations * MILLISECONDS_PER_LAUNCH
        print(f'| {name} | {operations} | {counted.waits} | {model:.2f} | {on_cpu:.1f} |')


if __name__ == '__main__':
    main()
