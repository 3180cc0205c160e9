"""AP, Bucketed AP, RS and Bucketed RS Loss in MMDetection's registry."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from torch import Tensor, nn

from .... import functional
from ....core import devices
from ....core.arguments import check_delta
from ....functional import SparseTargets
from .box_weighting import PositiveBoxes, balance_factor
from .earlier_batches import EarlierBatches, with_gradient_times


class ImageRows(NamedTuple):
    """The image that each row of a batch belongs to.

    Attributes:
        image: ``(n,)`` int64 indices of the images.
        num_images: Number of images in the batch, including images without rows.
    """

    image: Tensor
    num_images: int


class RowSets(NamedTuple):
    """The set that each row of a batch belongs to; sets are ranked separately, for example decoder layers.

    Attributes:
        of_rows: ``(n,)`` int64 indices of the sets.
        num: The number of sets, including sets without rows.
    """

    of_rows: Tensor
    num: int


class RankingLoss(nn.Module):
    """Base class of the ranking losses: MMDetection's interface to :mod:`bucketed_losses.functional`.

    The classifier has one sigmoid per class and no background column; all ``(prediction, class)`` entries of the batch
    are ranked together. Heads that know MMDetection's ``custom_cls_channels`` interface (``BBoxHead`` and its
    subclasses) ask the loss for the number of channels, the activation and the accuracy.

    Args:
        delta: Half-width of the smoothed step H of Eq. 2, in logits.
        loss_weight: Factor on every returned part.
        scope: The ranking scope. 'batch': the images of this process, as published. 'global': the images of all
            processes of a distributed run, exactly, with O(P) communication; the box losses of this package's heads are
            then normalised and balanced over all processes too, so that a step equals that of one process with the
            whole batch. 'image': each image separately; the loss is the mean over images, where images without
            positives count as 0, as if every image had its own process. 'class': each class separately; the loss is
            the mean over the classes that have positives, as mAP is a mean over classes.
        self_balancing: Whether heads of this package scale their box loss to the value of this loss
            (:func:`~bucketed_losses.mmdet.models.losses.self_balance`); None uses ``balances_itself``.
        use_sigmoid: Must be True; accepted because MMDetection's dense heads read it from the loss's config.
        box_weights: How heads of this package weight the box losses of the positives: 'scores', by their highest class
            probabilities; or 'equal', which gives a plain mean. The published auxiliary heads of BRS-DETR compute plain
            means.
        memory: The number of earlier batches that a batch is ranked together with in training, for batches of one or a
            few images. Their logits and IoUs are kept as they were and get no gradient. The value is that of all these
            batches as one. The logits of the batch get the gradient of this value, times the number of batches, because
            the value is a mean over more positives. The scope must be 'batch', or 'global', where each process
            remembers its own batches. In evaluation mode, a batch is ranked by itself. :meth:`forget` empties the
            memory. On an accelerator, the host waits once in a call, and twice if ``positive`` is not given.

    Attributes:
        LOG_NAMES: Names of the parts that ``forward`` returns.
        SCOPES: Values of ``scope`` that the loss supports.
        TAKES_SPARSE_TARGETS: Whether :meth:`rank` takes the indices of the positives in place of a target per entry.
        balances_itself: The default of ``self_balancing``. If True, a ``loss_weight`` of the box losses cancels.
        needs_ious: Whether the loss reads the IoUs of the predicted boxes.
    """

    LOG_NAMES: tuple[str, ...]
    SCOPES: tuple[str, ...] = ('batch', 'global', 'image', 'class')
    TAKES_SPARSE_TARGETS = True
    balances_itself: bool
    needs_ious: bool
    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    def __init__(
        self,
        delta: float,
        loss_weight: float = 1.0,
        self_balancing: bool | None = None,
        use_sigmoid: bool = True,
        scope: str = 'batch',
        box_weights: str = 'scores',
        memory: int = 0,
    ) -> None:
        super().__init__()
        if box_weights not in ('scores', 'equal'):
            raise ValueError(f"{type(self).__name__}: box_weights must be 'scores' or 'equal', got {box_weights!r}")
        if scope not in self.SCOPES:
            raise ValueError(f'{type(self).__name__}: scope must be one of {", ".join(self.SCOPES)}, got {scope!r}')
        if not use_sigmoid:
            raise ValueError(
                f'{type(self).__name__}: use_sigmoid must be True, got {use_sigmoid}; ranking losses score every '
                'class with a separate sigmoid and have no background column'
            )
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0:
            raise ValueError(f'{type(self).__name__}: memory must be a number of batches, 0 or more, got {memory!r}')
        if memory and not self.TAKES_SPARSE_TARGETS:
            raise ValueError(f'{type(self).__name__}: this loss has no memory, got memory={memory}')
        if memory and scope not in ('batch', 'global'):
            raise ValueError(
                f"{type(self).__name__}: memory={memory} needs scope='batch' or 'global', which rank all images "
                f'together, got {scope!r}'
            )
        check_delta(delta)
        self.delta = delta
        self.loss_weight = loss_weight
        self.self_balancing = self.balances_itself if self_balancing is None else self_balancing
        self.use_sigmoid = use_sigmoid
        self.scope = scope
        self.equal_box_weights = box_weights == 'equal'
        self.memory = memory
        self._earlier = EarlierBatches(memory) if memory else None

    @property
    def group(self) -> Any:
        """The process group that ranks its batches together, or None for this process alone."""
        shared = self.scope == 'global' and dist.is_available() and dist.is_initialized()
        return dist.group.WORLD if shared else None

    @property
    def ranks_sets(self) -> bool:
        """Whether ``forward`` can rank many sets of rows in one call, as with ``sets``."""
        return self.TAKES_SPARSE_TARGETS and not self.shared and not self.memory

    @property
    def needs_images(self) -> bool:
        """Whether ``forward`` reads ``images``; if not, heads do not need to compute them."""
        return self.scope == 'image'

    @property
    def shared(self) -> bool:
        """Whether the batches of all processes are ranked as one batch; heads then share their box losses too."""
        return self.group is not None

    def rank(
        self,
        logits: Tensor,
        targets: Tensor | SparseTargets,
        groups: Tensor | None = None,
        num_groups: int | None = None,
    ) -> dict[str, Tensor]:
        """The parts of the loss by log name, before ``loss_weight``.

        Args:
            logits: ``(n, num_classes)``.
            targets: ``(n, num_classes)``, see :func:`entry_targets`; or sparse, see :func:`sparse_targets`.
            groups: ``(n, num_classes)`` int64: entries that are ranked together. Each part then has a value for each
                group, ``(num_groups,)``.
            num_groups: The number of groups, if there are any.
        """
        arguments = dict(group=self.group or 'local', groups=groups, num_groups=num_groups)
        return dict(zip(self.LOG_NAMES, self._values(logits, targets, arguments), strict=True))

    def _values(self, logits: Tensor, targets: Tensor | SparseTargets, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        """The parts in the order of ``LOG_NAMES``, by a function of :mod:`bucketed_losses.functional`.

        Args:
            logits, targets: As for :meth:`rank`.
            arguments: The other keyword arguments of the function.
        """
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        positive: Tensor | None = None,
        images: ImageRows | None = None,
        sets: RowSets | None = None,
        *,
        series: str = '',
    ) -> dict[str, Tensor]:
        """Rank all entries of ``pred`` together, or those of each set of rows.

        Args:
            pred: ``(n, num_classes)`` logits.
            target: ``(labels, ious)`` as for ``QualityFocalLoss``, or the labels alone; every IoU is 1 then, which
                suffices for the AP losses. Labels are ``(n,)`` int64 in ``[0, num_classes]``, where ``num_classes`` is
                background. IoUs are ``(n,)`` in [0, 1], of each positive's predicted box with its ground truth; those
                of background are not read. A positive with IoU 0 stays positive; an IoU of NaN makes the loss NaN.
            weight: ``(n,)`` or ``(n, num_classes)``; entries with weight 0 are ignored, other values do not matter.
            avg_factor: Accepted for MMDetection's interface and not used: ranking losses are means over positives.
            reduction_override: None, 'mean' or 'sum', which all have the same effect. 'none' raises an error.
            positive: ``(num_pos,)`` int64 rows of the positives that are not ignored, if the caller knows them; this
                saves a host synchronisation on an accelerator.
            images: The images of the rows; required if the scope is 'image', and not read otherwise.
            sets: Sets of rows. Each set gets the values and the gradient of a call of its own.
            series: With ``memory``, the calls that remember each other, for a caller that makes several calls in a
                step, for example one for each decoder layer.

        Returns:
            Scalars by log name: ``loss_rank`` and, for RS losses, ``loss_sort``. With ``sets``, each part is
            ``(sets.num,)``.

        Raises:
            ValueError: ``sets`` are given, and ``ranks_sets`` is False; ``images`` or ``sets`` do not fit the rows; or,
                on the CPU, ``positive`` has a row of background.
        """
        self._check_reduction(reduction_override)
        self._check_takes_sets(sets)
        labels, ious = target if isinstance(target, (tuple, list)) else (target, None)
        targets: Tensor | SparseTargets
        if positive is not None and self.TAKES_SPARSE_TARGETS:
            targets = sparse_targets(pred, labels, ious, weight, positive)
        else:
            targets = entry_targets(pred, labels, ious, weight)
        if self._earlier is not None and self.training:
            (logits, sparse), batches = self._earlier.joined(pred, targets, series)
            losses = {name: with_gradient_times(value, batches) for name, value in self.rank(logits, sparse).items()}
        elif sets is None and self.scope in ('batch', 'global'):
            losses = self.rank(pred, targets)
        else:
            losses = self._rank_parts(pred, targets, images, sets)
        return {name: self.loss_weight * value for name, value in losses.items()}

    def forget(self) -> None:
        """Empty the memory, for example before another training of the same module. Nothing happens without one."""
        if self._earlier is not None:
            self._earlier.forget()

    def losses_with_boxes(
        self,
        pred: Tensor,
        labels: Tensor,
        weight: Tensor,
        positive: Tensor,
        boxes: PositiveBoxes,
        images: ImageRows | None = None,
    ) -> dict[str, Tensor]:
        """This loss and the box losses of the positives, with the names that heads of this package log.

        The target of a positive is the IoU of its box, or its quality if the head gives one. Box losses are means with
        the weights of ``box_weights``. With ``self_balancing``, their sum is scaled to the sum of the parts of this
        loss. A loss that combines its parts with box losses in another way overrides this method.

        Args:
            pred: ``(n, num_classes)`` logits.
            labels: ``(n,)`` int64 class indices, ``num_classes`` for background.
            weight: ``(n,)``, 0 for ignored predictions.
            positive: ``(num_pos,)`` int64 rows of the positives that are not ignored.
            boxes: Their boxes, in the same order.
            images: As for :meth:`forward`.

        Returns:
            Scalars by log name: the parts of this loss, ``loss_bbox`` and the other losses of the boxes.
        """
        quality = boxes.rank_targets()
        targets = quality.new_zeros(len(pred))
        targets[positive] = quality
        losses = self(pred, (labels, targets), weight=weight, positive=positive, images=images)
        box_losses = boxes.weighted_losses(self.shared, self.equal_box_weights)
        if self.self_balancing:
            factor = balance_factor(torch.stack(list(box_losses.values())).sum(), losses.values(), self.shared)
            box_losses = {name: value * factor for name, value in box_losses.items()}
        return {**losses, **box_losses}

    def _check_reduction(self, reduction_override: str | None) -> None:
        if reduction_override not in (None, 'mean', 'sum'):
            raise ValueError(
                f'{type(self).__name__}: reduction_override must be None, "mean" or "sum", got {reduction_override!r}; '
                'a ranking loss compares entries with each other and has no value per entry'
            )

    def _check_takes_sets(self, sets: RowSets | None) -> None:
        if sets is not None and not self.ranks_sets:
            raise ValueError(
                f'{type(self).__name__}: {self._why_no_sets()}, so it cannot rank many sets in one call; call the loss '
                'for each set'
            )

    def _why_no_sets(self) -> str:
        if self.memory:
            return f'memory={self.memory} keeps batches of one set'
        return "scope='global' ranks the logits of all processes together" if self.shared else 'it ranks one set'

    def _rank_parts(
        self, pred: Tensor, targets: Tensor | SparseTargets, images: ImageRows | None, sets: RowSets | None
    ) -> dict[str, Tensor]:
        """The means over the rankings that the scope divides a set into; all rows are one set if ``sets`` is None."""
        groups, size = self._rankings_of_a_set(pred, images)
        num_sets = 1 if sets is None else sets.num
        if sets is not None:
            self.check_sets(sets, len(pred))
            groups = groups + (sets.of_rows * size).unsqueeze(1)
        groups = groups.expand_as(pred).contiguous()
        losses = self.rank(pred, targets, groups, num_sets * size)
        counted: Tensor | int = size
        if self.scope == 'class':  # the mean over the classes that have positives
            present = groups.new_zeros(num_sets * size)
            if isinstance(targets, SparseTargets):
                present.index_fill_(0, groups.view(-1).index_select(0, targets.positives), 1)
            else:
                present.index_add_(0, groups.view(-1), (targets > 0).view(-1).to(present.dtype)).clamp_(max=1)
            counted = present.view(num_sets, size).sum(1).clamp(min=1)
        losses = {name: values.view(num_sets, size).sum(1) / counted for name, values in losses.items()}
        return {name: values[0] for name, values in losses.items()} if sets is None else losses

    def _rankings_of_a_set(self, pred: Tensor, images: ImageRows | None) -> tuple[Tensor, int]:
        """The ranking that each entry belongs to, int64 and broadcastable to ``pred``, and the number of rankings."""
        if self.scope == 'class':
            return torch.arange(pred.size(1), device=pred.device).unsqueeze(0), pred.size(1)
        if self.scope != 'image':
            return torch.zeros(1, 1, dtype=torch.int64, device=pred.device), 1
        if images is None:
            raise ValueError(
                f"{type(self).__name__}: scope='image' needs the image of every row; give images=ImageRows(image, "
                'num_images), or use a head of this package'
            )
        self.check_images(images, len(pred))
        return images.image.unsqueeze(1), max(images.num_images, 1)

    def check_images(self, images: ImageRows, num_rows: int) -> None:
        """Check that every row of a batch has an image. Indices are read on the CPU only.

        Raises:
            ValueError: There is not one index for each row, or an index is not in [0, num_images).
        """
        self._check_indices('ImageRows.image', images.image, 'image', num_rows)
        if images.num_images == 0 and num_rows:
            raise ValueError(
                f"{type(self).__name__}: scope='image' got {num_rows} rows of pred and ImageRows with "
                'num_images=0; num_images must count all images of the batch'
            )
        self._check_range('ImageRows.image', images.image, 'images', images.num_images)

    def check_sets(self, sets: RowSets, num_rows: int) -> None:
        """Check that every row of a batch has a set. Indices are read on the CPU only.

        Raises:
            ValueError: There is not one index for each row, or an index is not in [0, num).
        """
        self._check_indices('RowSets.of_rows', sets.of_rows, 'set', num_rows)
        self._check_range('RowSets.of_rows', sets.of_rows, 'sets', sets.num)

    def _check_indices(self, name: str, indices: Tensor, one: str, num_rows: int) -> None:
        if indices.shape != (num_rows,):
            raise ValueError(
                f'{type(self).__name__}: {name} must have the shape ({num_rows},), one {one} per row of pred, '
                f'got {tuple(indices.shape)}'
            )

    def _check_range(self, name: str, indices: Tensor, counted: str, num: int) -> None:
        """On the CPU only: an accelerator would have to be waited for."""
        if devices.on_cpu(indices) and indices.numel():
            lowest, highest = (int(value) for value in indices.aminmax())
            if lowest < 0 or highest >= num:
                raise ValueError(
                    f'{type(self).__name__}: {name} must lie in [0, {num}), the number of {counted}, got '
                    f'{lowest} to {highest}'
                )

    def get_cls_channels(self, num_classes: int) -> int:
        """Channels of the classifier: one per class, none for background."""
        return num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores ``(n, num_classes + 1)`` of logits ``(n, num_classes)``; the last column, for background, is 0.

        MMDetection's box heads drop that column before NMS, and its dense heads never keep a score of 0.
        """
        return torch.cat([cls_score.sigmoid(), cls_score.new_zeros(len(cls_score), 1)], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``acc_classes``: the percentage of positives for which the logit of their class is the highest."""
        positive = ((labels >= 0) & (labels < cls_score.size(1))).nonzero().squeeze(1)
        return accuracy_of_positives(cls_score, labels, positive)

    def extra_repr(self) -> str:
        return (
            f'delta={self.delta}, loss_weight={self.loss_weight}, self_balancing={self.self_balancing}, '
            f'scope={self.scope!r}' + (f', memory={self.memory}' if self.memory else '')
        )


def accuracy_of_positives(cls_score: Tensor, labels: Tensor, positive: Tensor) -> dict[str, Tensor]:
    """``acc_classes``, see :meth:`RankingLoss.get_accuracy`, for known rows ``positive (num_pos,)``."""
    return {'acc_classes': accuracy(cls_score[positive], labels[positive])}


def sparse_targets(
    pred: Tensor, labels: Tensor, ious: Tensor | None, weight: Tensor | None, positive: Tensor
) -> SparseTargets:
    """Targets without a number for each (prediction, class) entry; arguments as for :func:`entry_targets`.

    Args:
        positive: ``(num_pos,)`` int64 rows of all positives that are not ignored.

    Raises:
        ValueError: As :func:`entry_targets`, or as :func:`check_positive_rows`.
    """
    dtype = _check_rows(pred, labels, ious, weight)
    check_positive_rows(pred, labels, positive)
    own = pred.new_ones(len(positive), dtype=dtype) if ious is None else _quality(ious.index_select(0, positive), dtype)
    ignored = None if weight is None else _ignored(weight).expand_as(pred)
    return SparseTargets(positive * pred.size(1) + labels.index_select(0, positive), own, ignored)


def entry_targets(pred: Tensor, labels: Tensor, ious: Tensor | None, weight: Tensor | None) -> Tensor:
    """Targets as :mod:`bucketed_losses.functional` takes them, one per (prediction, class) entry.

    Args:
        pred: ``(n, num_classes)`` logits.
        labels: ``(n,)`` class indices, ``num_classes`` for background.
        ious: ``(n,)``, or None for 1 everywhere.
        weight: ``(n,)`` or ``(n, num_classes)``, 0 for ignored entries; or None.

    Returns:
        ``(n, num_classes)`` float32 or float64.
    """
    dtype = _check_rows(pred, labels, ious, weight)
    num, num_classes = pred.shape
    quality = pred.new_ones(num, dtype=dtype) if ious is None else _quality(ious, dtype)
    # There is one additional entry, and all background rows write to it. Selecting the positives instead would need a
    # host synchronisation.
    targets = torch.zeros(num * num_classes + 1, dtype=dtype, device=pred.device)
    entries = torch.arange(num, device=pred.device) * num_classes + labels
    entries = torch.where(labels < num_classes, entries, num * num_classes)
    # A negative label becomes the index -1, which makes an accelerator raise, as the check of rows does on the CPU.
    targets.scatter_(0, torch.where(labels < 0, -1, entries), quality)
    targets = targets[:-1].view(num, num_classes)
    return targets if weight is None else targets.masked_fill(_ignored(weight), -1)


def check_positive_rows(pred: Tensor, labels: Tensor, positive: Tensor) -> None:
    """Check that the rows of positives are rows of ``pred`` with a class. They are read on the CPU only.

    Args:
        pred: ``(n, num_classes)`` logits.
        labels: ``(n,)`` class indices, ``num_classes`` for background.
        positive: ``(num_pos,)`` int64 rows.

    Raises:
        ValueError: A row is not in [0, n), or its label is that of background.
    """
    if not devices.on_cpu(positive) or positive.numel() == 0:
        return
    num, num_classes = pred.shape
    lowest, highest = (int(row) for row in positive.aminmax())
    if lowest < 0 or highest >= num:
        raise ValueError(f'positive must be rows of pred, in [0, {num}), got {lowest} to {highest}')
    background = positive[labels[positive] >= num_classes]
    if len(background):
        raise ValueError(
            f'positive must be rows whose label is a class, in [0, {num_classes}), got background in '
            f'{len(background)} of {len(positive)} rows, first in row {int(background[0])}'
        )


def _ignored(weight: Tensor) -> Tensor:
    ignored = weight == 0
    return ignored.unsqueeze(1) if ignored.dim() == 1 else ignored


def _quality(ious: Tensor, dtype: torch.dtype) -> Tensor:
    # The published code turns a positive with an IoU of 0 into a negative; here it stays positive.
    return ious.detach().to(dtype).clamp(torch.finfo(dtype).eps, 1)


def _check_rows(pred: Tensor, labels: Tensor, ious: Tensor | None, weight: Tensor | None) -> torch.dtype:
    """Check the arguments of :func:`entry_targets`; return the dtype of IoUs."""
    if pred.dim() != 2:
        raise ValueError(f'pred must have the shape (n, num_classes), got {tuple(pred.shape)}')
    num, num_classes = pred.shape
    for name, value in (('labels', labels), ('ious', ious)):
        if value is not None and value.shape != (num,):
            raise ValueError(f'{name} must have the shape ({num},), one per row of pred, got {tuple(value.shape)}')
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f'labels must be class indices of an integer dtype, got {labels.dtype}')
    if devices.on_cpu(labels) and num and not (int(labels.min()) >= 0 and int(labels.max()) <= num_classes):
        raise ValueError(
            f'labels must lie in [0, {num_classes}] for pred with {num_classes} classes ({num_classes} is background), '
            f'got values from {int(labels.min())} to {int(labels.max())}; a classifier for a ranking loss has no '
            'background column'
        )
    if weight is not None and weight.shape not in ((num,), (num, num_classes)):
        raise ValueError(f'weight must have the shape ({num},) or ({num}, {num_classes}), got {tuple(weight.shape)}')
    return torch.float64 if pred.dtype == torch.float64 else torch.float32


@MODELS.register_module()
class APLoss(RankingLoss):
    """Exact AP Loss, :func:`bucketed_losses.functional.ap_loss`; log name ``loss_rank``.

    Args:
        delta, loss_weight, self_balancing, use_sigmoid, scope, box_weights, memory: As for :class:`RankingLoss`.
        interpolated: Interpolate precisions, as the published code does. The scope must then be 'batch' or 'global'.

    Raises:
        ValueError: As :class:`RankingLoss`, or the scope does not allow interpolation.
    """

    LOG_NAMES = ('loss_rank',)
    balances_itself = False
    needs_ious = False

    def __init__(
        self,
        delta: float = 1.0,
        loss_weight: float = 1.0,
        self_balancing: bool | None = None,
        use_sigmoid: bool = True,
        scope: str = 'batch',
        box_weights: str = 'scores',
        interpolated: bool = False,
        memory: int = 0,
    ) -> None:
        super().__init__(delta, loss_weight, self_balancing, use_sigmoid, scope, box_weights, memory)
        if interpolated and scope not in ('batch', 'global'):
            raise ValueError(f"APLoss: interpolated=True needs scope='batch' or 'global', got {scope!r}")
        self.interpolated = interpolated

    @property
    def ranks_sets(self) -> bool:
        return super().ranks_sets and not self.interpolated

    def _why_no_sets(self) -> str:
        return 'interpolated=True ranks one set' if self.interpolated else super()._why_no_sets()

    def _values(self, logits: Tensor, targets: Tensor | SparseTargets, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        return (functional.ap_loss(logits, targets, self.delta, interpolated=self.interpolated, **arguments),)

    def extra_repr(self) -> str:
        return super().extra_repr() + (', interpolated=True' if self.interpolated else '')


@MODELS.register_module()
class BucketedAPLoss(APLoss):
    """The paper's Bucketed AP Loss, :func:`bucketed_losses.functional.bucketed_ap_loss`; log name ``loss_rank``.

    Arguments are those of :class:`RankingLoss`; the published Bucketed AP Loss is not interpolated.
    """

    def __init__(
        self,
        delta: float = 1.0,
        loss_weight: float = 1.0,
        self_balancing: bool | None = None,
        use_sigmoid: bool = True,
        scope: str = 'batch',
        box_weights: str = 'scores',
        memory: int = 0,
    ) -> None:
        super().__init__(delta, loss_weight, self_balancing, use_sigmoid, scope, box_weights, memory=memory)

    def _values(self, logits: Tensor, targets: Tensor | SparseTargets, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        return (functional.bucketed_ap_loss(logits, targets, self.delta, **arguments),)


@MODELS.register_module()
class RSLoss(RankingLoss):
    """Exact RS Loss, :func:`bucketed_losses.functional.rs_loss`; log names ``loss_rank`` and ``loss_sort``."""

    LOG_NAMES = ('loss_rank', 'loss_sort')
    balances_itself = True
    needs_ious = True

    def __init__(
        self,
        delta: float = 0.5,
        loss_weight: float = 1.0,
        self_balancing: bool | None = None,
        use_sigmoid: bool = True,
        scope: str = 'batch',
        box_weights: str = 'scores',
        memory: int = 0,
    ) -> None:
        super().__init__(delta, loss_weight, self_balancing, use_sigmoid, scope, box_weights, memory)

    def _values(self, logits: Tensor, targets: Tensor | SparseTargets, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        return functional.rs_loss(logits, targets, self.delta, **arguments)


@MODELS.register_module()
class BucketedRSLoss(RSLoss):
    """The paper's Bucketed RS Loss, :func:`bucketed_losses.functional.bucketed_rs_loss`; logged as ``RSLoss``."""

    def _values(self, logits: Tensor, targets: Tensor | SparseTargets, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
        return functional.bucketed_rs_loss(logits, targets, self.delta, **arguments)
