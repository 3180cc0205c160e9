"""SCNet trained with ranking losses."""

from __future__ import annotations

import torch
from mmdet.models.roi_heads import SCNetRoIHead
from mmdet.models.roi_heads.bbox_heads import SCNetBBoxHead
from mmdet.models.roi_heads.mask_heads import SCNetMaskHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from torch import Tensor

from ..losses.box_weighting import without_bfloat16
from ..recipes import Role, ranking_head
from ..rules import kept_branch
from .rank_based_bbox_heads import BOX_HEAD, RankingBBoxHeadMixin
from .rank_based_htc_heads import SEMANTIC_BRANCH
from .rank_based_mask_head import MASK_HEAD, WEIGHTED_MASKS, RankingMaskHeadMixin
from .rank_based_roi_heads import CASCADE, RankingRoIHeadMixin, unused

_GLOBAL_CONTEXT = kept_branch('glbctx_head', 'it tells which classes are in an image, and gives no score to a box')


@ranking_head(SCNetBBoxHead, role=Role.BOX, rules=BOX_HEAD)
@MODELS.register_module()
class RankBasedSCNetBBoxHead(RankingBBoxHeadMixin, SCNetBBoxHead):
    """``SCNetBBoxHead`` trained with a ranking loss; arguments as for MMDetection's head."""


@ranking_head(SCNetMaskHead, role=Role.MASK, rules=MASK_HEAD, reason=WEIGHTED_MASKS)
@MODELS.register_module()
class RankBasedSCNetMaskHead(RankingMaskHeadMixin, SCNetMaskHead):
    """``SCNetMaskHead`` with a mask loss weighted by scores; arguments as for :class:`RankingMaskHeadMixin`."""


@ranking_head(SCNetRoIHead, role=Role.ROI, rules=(*CASCADE, SEMANTIC_BRANCH, _GLOBAL_CONTEXT))
@MODELS.register_module()
class RankBasedSCNetRoIHead(RankingRoIHeadMixin, SCNetRoIHead):
    """``SCNetRoIHead`` for ranking losses.

    Every stage ranks its RoIs and balances its box loss. The only mask head takes the place of one per stage, and the
    stock head adds up the weights of the stages for it. Its loss is therefore balanced to the sum of the ranking losses
    of all stages. The losses of the semantic branch and of the global context keep their weights.
    """

    MASK_FIELDS = (*RankingRoIHeadMixin.MASK_FIELDS, 'pos_rows')

    def ranking_losses_of(self, stage: str, losses: dict[str, Tensor]) -> list[Tensor]:
        """The ranking losses of all stages."""
        return [
            losses[f's{index}.{part}'] for index, head in enumerate(self.bbox_head) for part in head.loss_cls.LOG_NAMES
        ]

    def bbox_loss(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        sampling_results: list,
        semantic_feat: Tensor | None = None,
        glbctx_feat: Tensor | None = None,
    ) -> dict:
        """Losses of the boxes of a stage; arguments as for :class:`mmdet.models.SCNetRoIHead`."""
        if semantic_feat is not None:
            semantic_feat = without_bfloat16(semantic_feat)
        results = super().bbox_loss(stage, x, sampling_results, semantic_feat, glbctx_feat)
        self.attach_scores(sampling_results, results['cls_score'], self.bbox_head[stage])
        return results

    def mask_loss(
        self,
        x: tuple[Tensor, ...],
        sampling_results: list,
        batch_gt_instances: InstanceList,
        semantic_feat: Tensor | None = None,
        glbctx_feat: Tensor | None = None,
        relayed_feat: Tensor | None = None,
    ) -> dict:
        """Losses of the masks; arguments as for :class:`mmdet.models.SCNetRoIHead`."""
        if semantic_feat is not None:
            semantic_feat = without_bfloat16(semantic_feat)
        first = 0
        for result in sampling_results:
            result.pos_rows = torch.arange(first, first + len(result.pos_priors), device=result.pos_priors.device)
            first += len(result.pos_priors)
        positives = self.mask_positives(sampling_results)
        if relayed_feat is not None:
            relayed_feat = relayed_feat[torch.cat([image.pos_rows for image in positives])]
        results = super().mask_loss(x, positives, batch_gt_instances, semantic_feat, glbctx_feat, relayed_feat)
        if relayed_feat is None and self.with_feat_relay:
            # Without positives, the relay head returns nothing.
            results['loss_mask']['loss_mask'] = results['loss_mask']['loss_mask'] + unused(self.feat_relay_head)
        return results
