"""Mask Scoring R-CNN trained with ranking losses."""

from __future__ import annotations

from mmdet.models.roi_heads import MaskScoringRoIHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from torch import Tensor

from ..losses.box_weighting import mean_by_score
from ..recipes import Role, ranking_head
from .rank_based_mask_head import logits_of_own_class, scores_of
from .rank_based_roi_heads import TWO_STAGE, RankBasedRoIHead


@ranking_head(MaskScoringRoIHead, role=Role.ROI, rules=TWO_STAGE)
@MODELS.register_module()
class RankBasedMaskScoringRoIHead(RankBasedRoIHead, MaskScoringRoIHead):
    """``MaskScoringRoIHead`` for ranking losses.

    The loss of the predicted mask IoUs is weighted by scores as the mask loss is, and balanced together with it, so
    the ratio of their weights does not change. As in the stock head, the scores of detections are multiplied by the
    predicted mask IoUs: the ranking loss learns from the IoUs of boxes and knows nothing about masks.
    """

    MASK_LOSSES = ('loss_mask', 'loss_mask_iou')

    def mask_loss(
        self, x: tuple[Tensor, ...], sampling_results: list, bbox_feats: Tensor, batch_gt_instances: InstanceList
    ) -> dict:
        """``loss_mask`` and ``loss_mask_iou``; arguments as for :class:`mmdet.models.MaskScoringRoIHead`."""
        positives = self.mask_positives(sampling_results)
        results = self._mask_forward(x, bbox2roi([image.pos_priors for image in positives]))
        results.update(
            self.mask_head.loss_and_target(results['mask_preds'], positives, batch_gt_instances, self.train_cfg)
        )
        masks = logits_of_own_class(results['mask_preds'], positives)
        predicted = logits_of_own_class(self.mask_iou_head(results['mask_feats'], masks), positives)
        ious = self.mask_iou_head.get_targets(
            positives, batch_gt_instances, masks, results['mask_targets'], self.train_cfg
        )
        losses = self.mask_iou_head.loss_iou(predicted, ious, reduction_override='none')
        # As in the stock head, masks that do not overlap with their object do not count.
        loss = mean_by_score(losses, scores_of(positives) * (ious > 0), self.mask_head.shared)
        results['loss_mask']['loss_mask_iou'] = loss
        return results
