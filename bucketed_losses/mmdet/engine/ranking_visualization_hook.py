"""Pictures while training: where the logits are, how large the ranking and sorting errors, precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

# Logits beyond it are counted in the outermost bins.
_RANGE = 15.0
_BINS = 120


@HOOKS.register_module()
class RankingVisualizationHook(Hook):
    """Draws, through every vis backend of the runner's visualizer, what a ranking loss does to the scores.

    Once per epoch: a histogram of the logits of positives and negatives for each ranking loss (image ``logits``), and
    the mean ranking and sorting error (scalars ``ranking_error/...`` and ``sorting_error/...``). After the last
    validation, and after a test: precision-recall curves of every class at IoU 0.5 and 0.75 (image
    ``precision_recall``), if the data set has COCO-style annotations.

    In a distributed run the histograms and errors are those of the first process's batches.

    Args:
        interval: Look at every so many iterations; the others cost nothing.
        precision_recall: Whether to draw precision-recall curves.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 20, precision_recall: bool = True) -> None:
        if interval < 1:
            raise ValueError(f'RankingVisualizationHook: interval must be at least 1, got {interval}')
        self.interval = interval
        self.precision_recall = precision_recall
        self._watching = ExitStack()
        self._counts: dict[str, Tensor] = {}
        self._errors: dict[str, list[Tensor]] = {}
        self._collector: Any = None

    # Training

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        from ..evaluation.ranked_batch import watch_ranking_losses

        if is_main_process() and self.every_n_inner_iters(batch_idx, self.interval):
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            self._watching.enter_context(watch_ranking_losses(model, self._look))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self._watching.close()

    def _look(self, batch: Any) -> None:
        bins = ((batch.logits.float() / (2 * _RANGE) + 0.5) * _BINS).clamp(0, _BINS - 1).long().flatten()
        targets = batch.targets.flatten()
        counts = torch.zeros(2, _BINS, device=bins.device)
        counts[0].scatter_add_(0, bins, (targets == 0).float())
        counts[1].scatter_add_(0, bins, (targets > 0).float())
        self._counts[batch.name] = self._counts.get(batch.name, 0) + counts
        for part, value in batch.errors.items():
            kind = {'loss_rank': 'ranking_error', 'loss_sort': 'sorting_error'}.get(part, part)
            self._errors.setdefault(f'{kind}/{batch.name}', []).append(value)

    def after_train_epoch(self, runner: Runner) -> None:
        if not self._counts:
            return
        epoch = runner.epoch + 1
        runner.visualizer.add_image('logits', draw_logits(self._counts, epoch), step=epoch)
        means = {name: torch.stack(values).mean().item() for name, values in self._errors.items()}
        for name, value in means.items():
            runner.visualizer.add_scalar(name, value, step=epoch)
        runner.logger.info(f'Epoch {epoch}: ' + ', '.join(f'{name} {value:.4f}' for name, value in means.items()))
        self._counts, self._errors = {}, {}

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
        """Whether this is the validation at the end of the training, or one without training."""
        if not self.precision_recall:
            return False
        loop = runner._train_loop
        return loop is None or isinstance(loop, dict) or runner.iter >= runner.max_iters

    def _collect(self, outputs: Sequence | None) -> None:
        from ..evaluation.matches import CollectDetections

        self._collector = self._collector or CollectDetections()
        self._collector.process(None, [sample.to_dict() for sample in outputs or ()])

    def _draw_curves(self, runner: Runner, dataset: Any) -> None:
        from ..evaluation.matches import coco_file, load_annotations, precision_recall

        if self._collector is None:
            return
        self._collector.evaluate(len(dataset))
        if not is_main_process():
            return
        classes = dataset.metainfo.get('classes', ())
        try:
            file = coco_file(dataset)
        except ValueError as error:
            runner.logger.warning(f'no precision-recall curves: {error}')
            return
        detections = self._collector.detections
        if not detections:
            runner.logger.warning('no precision-recall curves: there are no detections')
            return
        recall, precision = precision_recall(load_annotations(file), detections, classes, (0.5, 0.75))
        image = draw_precision_recall(recall, precision, classes, (0.5, 0.75))
        runner.visualizer.add_image('precision_recall', image, step=runner.epoch)


def draw_logits(counts: dict[str, Tensor], epoch: int) -> np.ndarray:
    """Histograms of the logits of positives and negatives, a panel for each loss; ``(H, W, 3)`` uint8, RGB."""
    figure = _figure(len(counts))
    edges = np.linspace(-_RANGE, _RANGE, _BINS + 1)
    for axis, (name, both) in zip(figure.axes, counts.items(), strict=True):
        for count, label, colour in zip(
            both.cpu().numpy(), ('negatives', 'positives'), ('grey', '#c44e52'), strict=True
        ):
            axis.stairs(count / max(count.sum(), 1), edges, fill=True, alpha=0.6, color=colour, label=label)
        used = np.nonzero(both.sum(dim=0).cpu().numpy())[0]
        axis.set_xlim(edges[used[0]] - 0.5, edges[used[-1] + 1] + 0.5)
        axis.set(title=f'{name}, epoch {epoch}', xlabel='logit', ylabel='share')
        axis.legend(frameon=False)
    return _pixels(figure)


def draw_precision_recall(
    recall: np.ndarray, precision: np.ndarray, classes: Sequence[str], iou_thrs: Sequence[float], most: int = 12
) -> np.ndarray:
    """Curves of every class, a panel for each IoU; of many classes the mean and the ``most`` with lowest AP."""
    figure = _figure(len(iou_thrs))
    for axis, iou_thr, by_class in zip(figure.axes, iou_thrs, precision, strict=True):
        ap = by_class.mean(axis=0)
        for label in np.argsort(ap)[:most]:
            axis.plot(recall, by_class[:, label], linewidth=1.2, label=f'{classes[label]} {ap[label]:.3f}')
        if len(classes) > 1:
            axis.plot(recall, by_class.mean(axis=1), color='black', label=f'mean {ap.mean():.3f}')
        axis.set(title=f'IoU {iou_thr:g}', xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
        axis.legend(framealpha=0.8, edgecolor='none', fontsize='small')
    return _pixels(figure)


def _figure(panels: int) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * panels, 3.6), layout='constrained', dpi=100)
    FigureCanvasAgg(figure)
    for axis in figure.subplots(1, panels, squeeze=False)[0]:
        axis.spines[['top', 'right']].set_visible(False)
        axis.grid(alpha=0.25)
    return figure


def _pixels(figure: Any) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
