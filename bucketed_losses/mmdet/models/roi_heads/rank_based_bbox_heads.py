"""R-CNN box heads trained with ranking losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdet.models.losses import GIoULoss
from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from ..classifiers import ClassifierMixin
from ..losses import ImageRows, check_decodes_boxes, check_head_losses, check_ranks, ranking_and_box_losses
from ..losses.box_weighting import at_least_float32
from ..losses.ranking_losses import accuracy_of_positives
from ..recipes import Role, ranking_head
from ..rules import coder_stds, decoded_box_loss, decoded_boxes, ranking_loss

if TYPE_CHECKING:
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead as _Host
else:
    _Host = object

BOX_HEAD = (ranking_loss(), coder_stds(), decoded_box_loss(10.0), decoded_boxes())
"""Rules of a box head that encodes boxes as deltas."""


class RankedRoIsMixin(ClassifierMixin, _Host):
    """A mixin for all box heads of RoI heads: a sigmoid classifier without background ranks all RoIs of a batch.

    The loss determines the classifier's number of channels, its activation and its accuracy, through MMDetection's
    ``custom_cls_channels`` interface. A subclass computes the losses in ``loss``, which also takes the images of the
    RoIs.
    """

    classifiers = ('fc_cls',)

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: list,
        rcnn_train_cfg: Any,
        concat: bool = True,
        reduction_override: str | None = None,
    ) -> dict:
        """Losses and targets; arguments as for :meth:`mmdet.models.BBoxHead.loss_and_target`."""
        targets = labels, label_weights, bbox_targets, bbox_weights = self.get_targets(
            sampling_results, rcnn_train_cfg, concat=concat
        )
        images = ImageRows(rois[:, 0].long(), len(sampling_results)) if self.loss_cls.needs_images else None
        losses = self.loss(
            cls_score, bbox_pred, rois, labels, label_weights, bbox_targets, bbox_weights, reduction_override, images
        )
        return dict(loss_bbox=losses, bbox_targets=targets)


class RankingBBoxHeadMixin(RankedRoIsMixin):
    """A mixin for ``BBoxHead`` and its subclasses: ranks all RoIs of a batch, labelled by the IoUs of their boxes.

    Regression can be class-specific or class-agnostic; the box loss is on decoded boxes. Without regression
    (``with_reg=False``), as in Grid R-CNN, the RoIs are the boxes, and there is no box loss.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss, the box loss is on deltas, or there is no classifier.
    """

    def __init__(self, *args: Any, reg_decoded_bbox: bool = True, **kwargs: Any) -> None:
        check_decodes_boxes(self, reg_decoded_bbox)
        super().__init__(*args, reg_decoded_bbox=True, **kwargs)
        if not self.with_cls:
            raise ValueError(f'{type(self).__name__}: with_cls must be True, got False; there are no scores to rank')
        check_ranks(self, "MMDetection's own head")
        if not self.with_reg and 'loss_bbox' not in self.loss_cls.LOG_NAMES:
            self.loss_bbox = GIoULoss()  # loss() leaves it out, so it need not be given
        check_head_losses(self)

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor | None,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        reduction_override: str | None = None,
        images: ImageRows | None = None,
    ) -> dict[str, Tensor]:
        """Rank the RoIs of all images together.

        Args:
            cls_score: ``(n, num_classes)`` logits.
            bbox_pred: ``(n, 4 * num_classes)`` box deltas, or ``(n, 4)`` if class-agnostic; None without regression.
            rois: ``(n, 5)``: image index, x1 y1 x2 y2 in pixels.
            labels: ``(n,)`` class indices, ``num_classes`` for background.
            label_weights: ``(n,)``, 0 for ignored RoIs.
            bbox_targets: ``(n, 4)`` ground-truth boxes of the positives, x1 y1 x2 y2 in pixels.
            bbox_weights: Not used: positives are weighted by their scores.
            reduction_override: As for the losses; 'none' raises an error.
            images: The images of the RoIs, for a loss that ranks each image separately.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox`` (with regression) and ``acc_classes``. If there is
            no positive, the losses are 0 and connected to the predictions, except with DR Loss or a memory.
        """
        positive = ((labels < self.num_classes) & (label_weights > 0)).nonzero().squeeze(1)
        boxes = rois[positive, 1:]
        if bbox_pred is not None:
            deltas = self._own_deltas(bbox_pred[positive], labels[positive])
            boxes = get_box_tensor(self.bbox_coder.decode(boxes, deltas))
        logits = at_least_float32(cls_score)
        losses = ranking_and_box_losses(
            self.loss_cls,
            self.loss_bbox,
            logits,
            labels,
            label_weights,
            positive,
            boxes,
            bbox_targets[positive],
            images,
        )
        if bbox_pred is None and 'loss_bbox' not in self.loss_cls.LOG_NAMES:  # in aLRP Loss, it is a loss of scores too
            losses.pop('loss_bbox')
        return {**losses, **accuracy_of_positives(logits, labels, positive)}

    def _own_deltas(self, bbox_pred: Tensor, labels: Tensor) -> Tensor:
        """``(num_pos, 4)`` deltas for the class of each positive."""
        deltas = at_least_float32(bbox_pred)
        if self.reg_class_agnostic:
            return deltas
        own_class = labels.reshape(-1, 1, 1).expand(-1, 1, 4)
        return deltas.reshape(-1, self.num_classes, 4).gather(1, own_class).squeeze(1)


@ranking_head(BBoxHead, role=Role.BOX, rules=BOX_HEAD)
@MODELS.register_module()
class RankBasedBBoxHead(RankingBBoxHeadMixin, BBoxHead):
    """``BBoxHead`` trained with a ranking loss, for example in C4 detectors; arguments as for MMDetection's head."""


@ranking_head(ConvFCBBoxHead, role=Role.BOX, rules=BOX_HEAD)
@MODELS.register_module()
class RankBasedConvFCBBoxHead(RankingBBoxHeadMixin, ConvFCBBoxHead):
    """``ConvFCBBoxHead`` trained with a ranking loss; arguments as for MMDetection's head."""


@ranking_head(Shared2FCBBoxHead, role=Role.BOX, rules=BOX_HEAD)
@MODELS.register_module()
class RankBasedShared2FCBBoxHead(RankingBBoxHeadMixin, Shared2FCBBoxHead):
    """``Shared2FCBBoxHead`` trained with a ranking loss; arguments as for MMDetection's head."""


@ranking_head(Shared4Conv1FCBBoxHead, role=Role.BOX, rules=BOX_HEAD)
@MODELS.register_module()
class RankBasedShared4Conv1FCBBoxHead(RankingBBoxHeadMixin, Shared4Conv1FCBBoxHead):
    """``Shared4Conv1FCBBoxHead`` trained with a ranking loss; arguments as for MMDetection's head."""
