"""The box head of SABL Faster and Cascade R-CNN trained with a ranking loss."""

from __future__ import annotations

from typing import Any

from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads.bbox_heads import SABLHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..losses import ImageRows, check_ranks
from ..losses.box_weighting import at_least_float32
from ..losses.ranking_losses import accuracy_of_positives
from ..losses.side_aware_boxes import Sides, side_aware_boxes
from ..recipes import Role, ranking_head
from ..rules import SIDE_AWARE_HEAD
from .rank_based_bbox_heads import RankedRoIsMixin


@ranking_head(SABLHead, role=Role.BOX, rules=SIDE_AWARE_HEAD, own_classifier=True)
@MODELS.register_module()
class RankBasedSABLHead(RankedRoIsMixin, SABLHead):
    """``SABLHead`` trained with a ranking loss.

    The RoIs of all images are ranked together. The label of a positive is the IoU of the box that its buckets and
    offsets decode to. The losses of buckets and offsets stay in place of a box loss: each positive is weighted by its
    score. With a loss that balances itself, both are scaled by one factor, so their ratio does not change; swapped
    configs set ``self_balancing=False``, and both keep their weights. In inference, scores are not multiplied by the
    confidences of the buckets.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        args, kwargs: As for :class:`mmdet.models.SABLHead`.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_ranks(self, "MMDetection's own head")
        self.fc_cls = nn.Linear(self.cls_out_channels, self.num_classes)  # MMDetection adds a channel for background

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: tuple[Tensor, Tensor],
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: tuple[Tensor, Tensor],
        bbox_weights: tuple[Tensor, Tensor],
        reduction_override: str | None = None,
        images: ImageRows | None = None,
    ) -> dict[str, Tensor]:
        """Rank the RoIs of all images together; arguments as for :meth:`mmdet.models.SABLHead.loss`.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox_cls``, ``loss_bbox_reg`` and ``acc_classes``. If there
            is no positive, the losses are 0 and connected to the predictions, except with DR Loss or a memory.
        """
        positive = ((labels < self.num_classes) & (label_weights > 0)).nonzero().squeeze(1)
        logits = at_least_float32(cls_score)
        predicted, targets, weights = (Sides(*part).at(positive) for part in (bbox_pred, bbox_targets, bbox_weights))
        boxes = side_aware_boxes(
            self, rois[positive, 1:], predicted, targets, weights, logits[positive], divisors=(4, 1)
        )
        losses = self.loss_cls.losses_with_boxes(logits, labels, label_weights, positive, boxes, images)
        return {**losses, **accuracy_of_positives(logits, labels, positive)}

    def refine_bboxes(self, sampling_results: list, bbox_results: dict, batch_img_metas: list[dict]) -> InstanceList:
        """Refined boxes; arguments as for :meth:`mmdet.models.SABLHead.refine_bboxes`, which expects a background."""
        scores = nn.functional.pad(bbox_results['cls_score'], (0, 1))
        return super().refine_bboxes(sampling_results, {**bbox_results, 'cls_score': scores}, batch_img_metas)

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: tuple[Tensor, Tensor],
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: Any = None,
    ) -> InstanceData:
        """Detections of one image; arguments as for :class:`mmdet.models.SABLHead`."""
        boxes, _ = self.bbox_coder.decode(roi[:, 1:], bbox_pred, img_meta['img_shape'])
        if rescale:
            boxes = boxes / boxes.new_tensor(img_meta['scale_factor']).repeat(2)
        scores = self.loss_cls.get_activation(cls_score)
        if rcnn_test_cfg is None:
            return InstanceData(bboxes=boxes, scores=scores)
        detections, labels = multiclass_nms(
            boxes, scores, rcnn_test_cfg.score_thr, rcnn_test_cfg.nms, rcnn_test_cfg.max_per_img
        )
        return InstanceData(bboxes=detections[:, :4], scores=detections[:, -1], labels=labels)
