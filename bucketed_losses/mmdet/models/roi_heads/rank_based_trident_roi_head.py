"""TridentNet trained with ranking losses."""

from __future__ import annotations

from mmdet.models.roi_heads import TridentRoIHead
from mmdet.registry import MODELS

from ..recipes import Role, ranking_head
from .rank_based_roi_heads import TWO_STAGE, RankBasedRoIHead


@ranking_head(TridentRoIHead, role=Role.ROI, rules=TWO_STAGE)
@MODELS.register_module()
class RankBasedTridentRoIHead(RankBasedRoIHead, TridentRoIHead):
    """``TridentRoIHead`` for ranking losses; the RoIs of all branches are ranked together."""
