"""PointRend trained with ranking losses."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import point_sample
from mmdet.models.roi_heads import PointRendRoIHead
from mmdet.models.roi_heads.mask_heads import CoarseMaskHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from torch import Tensor

from ..losses.box_weighting import mean_by_score
from ..recipes import Role, ranking_head
from .rank_based_mask_head import (
    MASK_HEAD,
    WEIGHTED_MASKS,
    RankingMaskHeadMixin,
    logits_of_own_class,
    loss_of_each_pixel,
    scores_of,
)
from .rank_based_roi_heads import TWO_STAGE, RankBasedRoIHead, unused


@ranking_head(CoarseMaskHead, role=Role.MASK, rules=MASK_HEAD, reason=WEIGHTED_MASKS)
@MODELS.register_module()
class RankBasedCoarseMaskHead(RankingMaskHeadMixin, CoarseMaskHead):
    """``CoarseMaskHead`` with a mask loss weighted by scores; arguments as for :class:`RankingMaskHeadMixin`."""


@ranking_head(PointRendRoIHead, role=Role.ROI, rules=TWO_STAGE)
@MODELS.register_module()
class RankBasedPointRendRoIHead(RankBasedRoIHead, PointRendRoIHead):
    """``PointRendRoIHead`` for ranking losses.

    The loss of the points is weighted by scores as the mask loss is, and balanced together with it, so the ratio of
    their weights does not change.
    """

    MASK_LOSSES = ('loss_mask', 'loss_point')

    def init_point_head(self, point_head: dict) -> None:
        """Build the point head; its loss is built with a value for each point."""
        super().init_point_head({**point_head, 'loss_point': loss_of_each_pixel(point_head.get('loss_point'))})

    def mask_positives(self, sampling_results: list) -> list:
        """As in :class:`RankingRoIHeadMixin`; also with ``pos_bboxes``, which the point head reads."""
        positives = super().mask_positives(sampling_results)
        for image in positives:
            image.pos_bboxes = image.pos_priors
        return positives

    def _mask_point_loss(
        self, x: tuple[Tensor, ...], sampling_results: list, mask_preds: Tensor, batch_gt_instances: InstanceList
    ) -> dict[str, Any]:
        """``loss_point`` of the positives of :meth:`mask_positives`; 0 and connected if there are none."""
        rois = bbox2roi([image.pos_priors for image in sampling_results])
        if len(rois) == 0:
            nothing = scores_of(sampling_results)  # points cannot be sampled; other processes may have positives
            loss = mean_by_score(nothing, nothing, self.mask_head.shared)
            return dict(loss_point=loss + unused(self.point_head))
        labels = torch.cat([image.pos_gt_labels for image in sampling_results])
        points = self.point_head.get_roi_rel_points_train(mask_preds, labels, cfg=self.train_cfg)
        predicted = self.point_head(
            self._get_fine_grained_point_feats(x, rois, points), point_sample(mask_preds, points)
        )
        targets = self.point_head.get_targets(rois, points, sampling_results, batch_gt_instances, self.train_cfg)
        logits = logits_of_own_class(predicted, sampling_results, self.point_head.class_agnostic)
        losses = self.point_head.loss_point(logits, targets, reduction_override='none').mean(dim=1)
        return dict(loss_point=mean_by_score(losses, scores_of(sampling_results), self.mask_head.shared))
