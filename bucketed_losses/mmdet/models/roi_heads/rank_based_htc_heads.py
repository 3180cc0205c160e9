"""Hybrid Task Cascade (HTC, DetectoRS) trained with ranking losses."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.roi_heads import HybridTaskCascadeRoIHead
from mmdet.models.roi_heads.mask_heads import HTCMaskHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from torch import Tensor

from ..losses.box_weighting import without_bfloat16
from ..recipes import Role, ranking_head
from ..rules import kept_branch
from .rank_based_mask_head import MASK_HEAD, WEIGHTED_MASKS, RankingMaskHeadMixin
from .rank_based_roi_heads import CASCADE, RankingRoIHeadMixin

SEMANTIC_BRANCH = kept_branch('semantic_head', 'it learns from all pixels, not from the ranked boxes')


@ranking_head(HTCMaskHead, role=Role.MASK, rules=MASK_HEAD, reason=WEIGHTED_MASKS)
@MODELS.register_module()
class RankBasedHTCMaskHead(RankingMaskHeadMixin, HTCMaskHead):
    """``HTCMaskHead`` with a mask loss weighted by scores; arguments as for :class:`RankingMaskHeadMixin`."""


@ranking_head(HybridTaskCascadeRoIHead, role=Role.ROI, rules=(*CASCADE, SEMANTIC_BRANCH))
@MODELS.register_module()
class RankBasedHTCRoIHead(RankingRoIHeadMixin, HybridTaskCascadeRoIHead):
    """``HybridTaskCascadeRoIHead`` for ranking losses; for HTC and DetectoRS.

    Every stage ranks its RoIs, and balances its box loss and its mask loss separately. The loss of the semantic branch
    keeps its weight. With ``interleaved=True``, masks are trained on the boxes that the stage has refined. The weight
    of such a box is the score of the RoI that it was refined from, as in a detection.
    """

    def bbox_loss(
        self, stage: int, x: tuple[Tensor, ...], sampling_results: list, semantic_feat: Tensor | None = None
    ) -> dict:
        """Losses of the boxes of a stage; arguments as for :class:`mmdet.models.HybridTaskCascadeRoIHead`."""
        results = super().bbox_loss(stage, x, sampling_results, _for_pooling(semantic_feat))
        if self.with_mask:
            scores = self.attach_scores(sampling_results, results['cls_score'], self.bbox_head[stage])
            self._scores = [
                _ground_truth_first(image_scores, result.pos_is_gt)
                for image_scores, result in zip(scores, sampling_results, strict=True)
            ]  # read and cleared in mask_loss, within the same stage
        return results

    def mask_loss(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        sampling_results: list,
        batch_gt_instances: InstanceList,
        semantic_feat: Tensor | None = None,
    ) -> dict:
        """Losses of the masks of a stage; arguments as for :class:`mmdet.models.HybridTaskCascadeRoIHead`."""
        scores: list[Tensor] = self.__dict__.pop('_scores')
        if self.interleaved:
            # The stock head has refined the RoIs, and has assigned objects to the refined boxes.
            for result, image_scores in zip(sampling_results, scores, strict=True):
                result.pos_scores = image_scores[result.pos_inds]
        positives = self.mask_positives(sampling_results)
        return super().mask_loss(stage, x, positives, batch_gt_instances, _for_pooling(semantic_feat))


def _ground_truth_first(scores: Tensor, pos_is_gt: Tensor) -> Tensor:
    """The scores ``(num_rois,)`` of an image in the order of the boxes that a sampler gets after the refinement.

    The refinement leaves out the ground-truth boxes among the RoIs, and the sampler puts them before the refined boxes.

    Args:
        scores: Scores of the positives and, after them, of the negatives.
        pos_is_gt: ``(num_pos,)`` 1 for positives that are ground-truth boxes.
    """
    ground_truth = torch.zeros_like(scores, dtype=torch.bool)
    ground_truth[: len(pos_is_gt)] = pos_is_gt.bool()
    return torch.cat([scores[ground_truth], scores[~ground_truth]])


def _for_pooling(features: Any) -> Any:
    """Feature maps in a dtype that MMCV's RoIAlign supports; None stays None."""
    return None if features is None else without_bfloat16(features)
