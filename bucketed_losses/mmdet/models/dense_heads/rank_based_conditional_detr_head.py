"""Conditional DETR trained with a ranking loss."""

from __future__ import annotations

from mmdet.models.dense_heads import ConditionalDETRHead
from mmdet.registry import MODELS

from ..recipes import Role, ranking_head
from ..rules import QUERY_HEAD
from .rank_based_detr_head import RankingDETRHeadMixin


@ranking_head(ConditionalDETRHead, role=Role.QUERIES, rules=QUERY_HEAD, unused=['sync_cls_avg_factor'])
@MODELS.register_module()
class RankBasedConditionalDETRHead(RankingDETRHeadMixin, ConditionalDETRHead):
    """``ConditionalDETRHead`` trained with a ranking loss; each decoder layer is ranked by itself.

    ``loss_rank`` and ``loss_sort`` are logged in place of ``loss_cls``. See :class:`QueryRankingMixin`.
    """

    baseline = 'ConditionalDETRHead'
