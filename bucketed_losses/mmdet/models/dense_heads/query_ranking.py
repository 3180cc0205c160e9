"""What all query heads with a ranking loss share: many sets of queries are ranked in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmdet.utils import InstanceList
from torch import Tensor

from ....core import devices
from ....core.distributed import num_processes
from ..classifiers import ClassifierMixin
from ..losses import ImageRows, RowSets, check_ranks
from ..losses.box_weighting import at_least_float32, balance_factor, mean_over_processes
from ..losses.head_checks import check_sigmoid_costs
from .query_sets import MaskSet, MaskTargets, QuerySet, QueryTargets, image_sizes, match_queries, to_device

if TYPE_CHECKING:
    from mmengine.model import BaseModule as _Host
else:
    _Host = object


class SetRankingMixin(ClassifierMixin, _Host):
    """A mixin for heads whose queries predict boxes or masks: a sigmoid classifier, trained with a ranking loss.

    The logits of each set of queries (a decoder layer, the encoder's proposals, a group of auxiliary queries) are
    ranked together over all images, and each set by itself. If ``self_balancing`` of the loss is True, the losses of
    the positions of each set are scaled to the value of its ranking loss (Eq. 17).

    On an accelerator, all sets are ranked in one call, and the host waits for nothing if the targets contain the
    positives. A CPU makes one call for each set, which is faster there. So do ``scope='global'`` with several
    processes, and losses that cannot rank many sets (``ranks_sets`` of the loss).

    Args:
        loss_cls: Config of one of this package's ranking losses.
        score_prior: The probability that an initial logit has in the classification costs of matching; in (0, 1). These
            costs are based on focal loss, and their published weight was chosen for logits that start at such a prior.
        args, kwargs: As for the head.

    Attributes:
        baseline: The ``type`` of the head that the error message recommends for other losses.
        position_losses: The names of the losses of the boxes or masks.
        balanced_together: Whether the sum of these losses is scaled to the ranking loss, which keeps the ratio of their
            weights. Otherwise each of them is.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss, or it is aLRP Loss; a class cost of matching reads a softmax; or
            ``score_prior`` is not in (0, 1).
    """

    own_init = True
    baseline: str
    position_losses: tuple[str, ...]
    balanced_together = False

    def __init__(self, *args: Any, loss_cls: dict, score_prior: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, loss_cls=loss_cls, **kwargs)
        check_ranks(self, instead=f'type={self.baseline!r}')
        if 'loss_bbox' in self.loss_cls.LOG_NAMES:
            raise ValueError(
                f'{type(self).__name__}: {type(self.loss_cls).__name__} is a box loss too, and queries have '
                f'{" and ".join(self.position_losses)}; use APLoss, BucketedAPLoss, RSLoss, BucketedRSLoss or DRLoss'
            )
        check_sigmoid_costs(self, getattr(self, 'assigner', None))
        self.score_shift = self.shift_to_prior(score_prior)

    def losses_of_sets(
        self,
        sets: Sequence[QuerySet | MaskSet],
        rows: Rows,
        ious: Tensor,
        errors: Tensor,
        predictions: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of all sets by log name: those of the ranking loss and the ``position_losses`` of each.

        The latter are sums over the positives of a set, divided by their number (its mean over processes, at least 1),
        as in DETR.

        Args:
            sets: Predictions of the same images.
            rows: The same, by :func:`join_sets`.
            ious: ``(num_pos,)`` targets of the positives, detached.
            errors: ``(num_losses, num_pos)`` values of the losses of the positives.
            predictions: ``(num_sets,)`` sums of all predicted boxes or masks of each set. They become part of the
                graph, and a set with a prediction that is not finite has losses that are not finite.
        """
        losses = self._rank(sets, rows, ious)
        others = self._means_over_positives(rows, errors) + predictions * 0
        if self.loss_cls.self_balancing:
            size = others.sum(0) if self.balanced_together else others
            others = others * balance_factor(size, losses.values(), self.loss_cls.shared)
        losses |= zip(self.position_losses, others.unbind(), strict=True)
        weights = to_device([one.weight for one in sets], others)
        named = {name: (values * weights).unbind() for name, values in losses.items()}
        return {one.prefix + name: named[name][index] for index, one in enumerate(sets) for name in named}

    def _means_over_positives(self, rows: Rows, errors: Tensor) -> Tensor:
        """``(num_losses, num_sets)`` of errors ``(num_losses, num_pos)``, before balancing."""
        total = errors.new_zeros(len(errors), len(rows.sizes)).index_add(1, rows.set_of_positives, errors)
        # If all processes share one batch, the lower limit is one positive in this batch.
        num_pos = mean_over_processes(to_device(rows.num_positives, errors)).clamp(
            min=1 / num_processes(self.loss_cls.group)
        )
        return total / (num_pos + torch.finfo(torch.float32).eps)

    def _rank(self, sets: Sequence[QuerySet | MaskSet], rows: Rows, ious: Tensor) -> dict[str, Tensor]:
        """The parts of the ranking loss, ``(num_sets,)`` each; ``ious (num_pos,)`` are those of the positives."""
        num_images = sets[0].logits.size(0)
        row_ious = ious.new_zeros(len(rows.labels)).index_copy(0, rows.positive, ious)
        images = rows.images(num_images) if self.loss_cls.needs_images else None
        if self.loss_cls.ranks_sets and not devices.on_cpu(rows.logits):
            return self.loss_cls(
                rows.logits,
                (rows.labels, row_ious),
                weight=rows.weights,
                positive=rows.positive,
                images=None if images is None else ImageRows(torch.cat(images), num_images),
                sets=RowSets(rows.set_of_rows, len(rows.sizes)),
            )
        inputs = (some.split(rows.sizes) for some in (rows.logits, rows.labels, row_ious, rows.weights))
        positives = rows.positive_in_set.split(rows.num_positives)
        own_images: list[ImageRows | None] = [None] * len(rows.sizes)
        if images is not None:
            own_images = [ImageRows(image, num_images) for image in images]
        # Losses of users may not know the argument.
        more = [dict(series=one.prefix) if self.loss_cls.memory else {} for one in sets]
        parts = [
            self.loss_cls(logits, (labels, own_ious), weight=weights, positive=positive, images=image, **own)
            for logits, labels, own_ious, weights, positive, image, own in zip(
                *inputs, positives, own_images, more, strict=True
            )
        ]
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


class QueryLossesMixin(SetRankingMixin):
    """A mixin for heads of queries that predict boxes: :class:`SetRankingMixin` with L1 and GIoU.

    The target of a positive is the IoU of its predicted box. If the losses are balanced, each of L1 and GIoU is scaled
    to the ranking loss, so their weights cancel.

    Raises:
        ValueError: As :class:`SetRankingMixin`.
    """

    position_losses = ('loss_bbox', 'loss_iou')

    def query_losses(self, sets: Sequence[QuerySet], batch_img_metas: list[dict]) -> dict[str, Tensor]:
        """Losses of all sets by log name, see :meth:`losses_of_sets`.

        Args:
            sets: Predictions of the same images.
            batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
        """
        rows = join_sets(sets, self.num_classes)
        all_boxes = at_least_float32(torch.cat([one.boxes.flatten(0, 1) for one in sets]))
        all_targets = torch.cat([one.targets.boxes.flatten(0, 1) for one in sets]).to(all_boxes.dtype)
        boxes, targets = (every.index_select(0, rows.positive) for every in (all_boxes, all_targets))
        sizes = image_sizes(batch_img_metas, boxes).index_select(0, rows.image_of_positives)
        (boxes, pixels), (targets, target_pixels) = (self.both_forms(every, sizes) for every in (boxes, targets))
        ious = bbox_overlaps(pixels.detach(), target_pixels, is_aligned=True)
        if len(boxes):
            # MMDetection's losses read the weights that they are given on the host, which waits for an accelerator.
            l1 = self.loss_bbox(boxes, targets, reduction_override='none').sum(1)
            errors = torch.stack([l1, self.loss_iou(pixels, target_pixels, reduction_override='none')])
        else:
            errors = boxes.new_zeros(2, 0)
        predictions = boxes.new_zeros(len(sets)).index_add(0, rows.set_of_rows, all_boxes.sum(1))
        return self.losses_of_sets(sets, rows, ious, errors, predictions)

    def both_forms(self, boxes: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The boxes that L1 compares, and the same boxes as x1 y1 x2 y2 in pixels.

        Args:
            boxes: ``(n, 4)``, in the form of the head's sets: here, normalised cx cy w h.
            sizes: ``(n, 4)`` width, height, width and height of their images in pixels.
        """
        return boxes, bbox_cxcywh_to_xyxy(boxes) * sizes


class QueryRankingMixin(QueryLossesMixin):
    """A mixin for MMDetection's query heads, which derive from ``DETRHead`` and have an assigner.

    Raises:
        ValueError: As :class:`SetRankingMixin`.
    """

    def match(
        self,
        logits: Tensor,
        boxes: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        valid: Tensor | None = None,
    ) -> QueryTargets:
        """One-to-one targets by the head's assigner, see :func:`match_queries`; it reads lowered logits."""
        return match_queries(self, logits + self.score_shift, boxes, batch_gt_instances, batch_img_metas, valid)


class Rows(NamedTuple):
    """The queries of all sets as rows, the images of a set one after the other: ``n`` rows, ``num_pos`` positives.

    Attributes:
        logits: ``(n, num_classes)``, at least float32.
        labels, weights: ``(n,)``.
        positive: ``(num_pos,)`` rows of the positives, in the order of the sets.
        positive_in_set: ``(num_pos,)``, the same without the rows of the sets before.
        set_of_rows: ``(n,)`` int64.
        set_of_positives: ``(num_pos,)`` int64.
        image_of_positives: ``(num_pos,)`` int64.
        sizes: The number of rows of each set.
        num_positives: The number of positives of each set.
    """

    logits: Tensor
    labels: Tensor
    weights: Tensor
    positive: Tensor
    positive_in_set: Tensor
    set_of_rows: Tensor
    set_of_positives: Tensor
    image_of_positives: Tensor
    sizes: list[int]
    num_positives: list[int]

    def images(self, num_images: int) -> list[Tensor]:
        """The image of each row of each set, int64."""
        image = torch.arange(num_images, device=self.labels.device).unsqueeze(1)
        return [image.expand(-1, size // num_images).flatten() for size in self.sizes]


def join_sets(sets: Sequence[QuerySet | MaskSet], num_classes: int) -> Rows:
    """The queries of all sets as rows, without their boxes or masks."""
    labels = torch.cat([one.targets.labels.flatten() for one in sets])
    weights = torch.cat([one.targets.weights.flatten() for one in sets])
    positives = [_positives(one.targets, num_classes) for one in sets]
    num_positives = [len(positive) for positive in positives]
    sizes = [one.targets.labels.numel() for one in sets]
    # The first row and the number of queries per image of each set.
    layout = to_device([[sum(sizes[:index]), one.targets.labels.size(1)] for index, one in enumerate(sets)], labels)
    index = torch.arange(len(sets), device=labels.device)
    set_of_rows, set_of_positives = (
        index.repeat_interleave(to_device(counts, labels), output_size=sum(counts)) for counts in (sizes, num_positives)
    )
    positive_in_set = torch.cat(positives)
    start, num_queries = layout.index_select(0, set_of_positives).unbind(1)
    return Rows(
        logits=at_least_float32(torch.cat([one.logits.flatten(0, 1) for one in sets])),
        labels=labels,
        weights=weights,
        positive=positive_in_set + start,
        positive_in_set=positive_in_set,
        set_of_rows=set_of_rows,
        set_of_positives=set_of_positives,
        image_of_positives=positive_in_set.div(num_queries, rounding_mode='floor'),
        sizes=sizes,
        num_positives=num_positives,
    )


def _positives(targets: QueryTargets | MaskTargets, num_classes: int) -> Tensor:
    if targets.positive is not None:
        return targets.positive
    positive = (targets.labels < num_classes) & (targets.weights > 0)
    return positive.flatten().nonzero().squeeze(1)
