"""Draws pictures while training: histograms of logits, ranking and sorting errors, and precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from .observers import ObserverGuard


@HOOKS.register_module()
class RankingVisualizationHook(Hook):
    """Shows the effect of a ranking loss on the scores, through every vis backend of the runner's visualizer.

    Once per epoch it draws a histogram of the logits of positives and negatives for each ranking loss (image
    ``logits``), and logs the mean ranking and sorting errors (scalars ``ranking_error/...`` and ``sorting_error/...``).
    After the last validation and after a test, it draws precision-recall curves of every class at IoU 0.5 and 0.75
    (image ``precision_recall``), if the data set has COCO-style annotations.

    In a distributed run, the histograms and errors are those of the first process's batches.

    The hook only observes the run: if it cannot draw, it warns once and the run continues. Logits and errors that are
    not finite are left out of the pictures, with a warning.

    Args:
        interval: The hook observes one of this many iterations; it does not slow down the others.
        precision_recall: Whether to draw precision-recall curves.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 20, precision_recall: bool = True) -> None:
        if interval < 1:
            raise ValueError(f'RankingVisualizationHook: interval must be at least 1, got {interval}')
        self.interval = interval
        self.precision_recall = precision_recall
        self._guard = ObserverGuard(type(self).__name__)
        self._watching = ExitStack()
        self._counts: dict[str, Tensor] = {}
        self._errors: dict[str, list[Tensor]] = {}
        self._non_finite: dict[str, Tensor] = {}
        self._collector: Any = None
        self._collected_all = True

    # Training

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if not is_main_process() or not self.every_n_inner_iters(batch_idx, self.interval):
            return
        with self._guard('watch the ranking losses'):
            from ..evaluation.ranked_batch import watch_ranking_losses

            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            # The model calls _look in its forward pass, long after this context has ended.
            guarded = watch_ranking_losses(model, self._look, lambda: self._guard('look at a batch'))
            self._watching.enter_context(guarded)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self._watching.close()

    def _look(self, batch: Any) -> None:
        from ..evaluation.ranking_pictures import count_logits

        self._counts[batch.name] = self._counts.get(batch.name, 0) + count_logits(batch.logits, batch.targets)
        non_finite = (~batch.logits.isfinite()).sum()
        self._non_finite[batch.name] = self._non_finite.get(batch.name, 0) + non_finite
        for part, value in batch.errors.items():
            kind = {'loss_rank': 'ranking_error', 'loss_sort': 'sorting_error'}.get(part, part)
            self._errors.setdefault(f'{kind}/{batch.name}', []).append(value)

    def after_train_epoch(self, runner: Runner) -> None:
        counts, errors, non_finite = self._counts, self._errors, self._non_finite
        self._counts, self._errors, self._non_finite = {}, {}, {}
        epoch = runner.epoch + 1
        if counts:
            with self._guard('draw the logits'):
                from ..evaluation.ranking_pictures import draw_logits

                runner.visualizer.add_image('logits', draw_logits(counts, epoch), step=epoch)
        with self._guard('log the ranking errors'):
            for name, number in non_finite.items():
                if number:
                    runner.logger.warning(
                        f'Epoch {epoch}: {int(number)} logits of {name} are not finite; they are not in the picture'
                    )
            means = {name: _finite_mean(values) for name, values in errors.items()}
            for name, mean in means.items():
                if mean is not None:
                    runner.visualizer.add_scalar(name, mean, step=epoch)
            if means:
                texts = [f'{name} {"not finite" if mean is None else f"{mean:.4f}"}' for name, mean in means.items()]
                runner.logger.info(f'Epoch {epoch}: ' + ', '.join(texts))

    # Validation and test

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        if self._is_last(runner):
            self._collect(outputs)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        if self.precision_recall:
            self._collect(outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self._is_last(runner):
            self._draw_curves(runner, runner.val_dataloader.dataset)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self.precision_recall:
            self._draw_curves(runner, runner.test_dataloader.dataset)

    def _is_last(self, runner: Runner) -> bool:
        """Whether this is the last validation of a training run, or a validation without training."""
        if not self.precision_recall:
            return False
        loop = runner._train_loop
        return loop is None or isinstance(loop, dict) or runner.iter >= runner.max_iters

    def _collect(self, outputs: Sequence | None) -> None:
        collected = False
        with self._guard('collect the detections'):
            from ..evaluation.matches import CollectDetections

            # Detections are collected in memory, not in files: if the disk of one process were full, the others would
            # wait for it.
            self._collector = self._collector or CollectDetections(collect_device='gpu')
            self._collector.process(None, [sample.to_dict() for sample in outputs or ()])
            collected = True
        self._collected_all &= collected

    def _draw_curves(self, runner: Runner, dataset: Any) -> None:
        collector, complete = self._collector, self._collected_all and self._collector is not None
        self._collector, self._collected_all = None, True
        # All processes must make both calls, even if an earlier step has failed on one of them.
        if not all(all_gather_object(complete)):
            return
        collector.evaluate(len(dataset))
        if not is_main_process():
            return
        with self._guard('draw the precision-recall curves'):
            from ..evaluation.matches import annotations_of, label_names, precision_recall
            from ..evaluation.ranking_pictures import draw_precision_recall

            annotations = annotations_of(dataset)
            classes = label_names(dataset, annotations)
            recall, precision = precision_recall(annotations, collector.detections, classes, (0.5, 0.75))
            image = draw_precision_recall(recall, precision, classes, (0.5, 0.75))
            runner.visualizer.add_image('precision_recall', image, step=runner.epoch)


def _finite_mean(values: Sequence[Tensor]) -> float | None:
    """The mean of the scalars that are finite; None if there are none."""
    stacked = torch.stack([value.float() for value in values])
    finite = stacked[stacked.isfinite()]
    return finite.mean().item() if len(finite) else None
