"""Double-Head R-CNN trained with ranking losses."""

from __future__ import annotations

from typing import Any

from mmdet.models.roi_heads import DoubleHeadRoIHead
from mmdet.models.roi_heads.bbox_heads import DoubleConvFCBBoxHead
from mmdet.registry import MODELS
from torch import nn

from ..recipes import Role, ranking_head
from .rank_based_bbox_heads import BOX_HEAD, RankingBBoxHeadMixin
from .rank_based_roi_heads import TWO_STAGE, RankBasedRoIHead


@ranking_head(DoubleConvFCBBoxHead, role=Role.BOX, rules=BOX_HEAD, own_classifier=True)
@MODELS.register_module()
class RankBasedDoubleConvFCBBoxHead(RankingBBoxHeadMixin, DoubleConvFCBBoxHead):
    """``DoubleConvFCBBoxHead`` trained with a ranking loss; arguments as for MMDetection's head.

    MMDetection's head always has a channel for background; this one has a channel for each class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fc_cls = nn.Linear(self.fc_out_channels, self.num_classes)


@ranking_head(DoubleHeadRoIHead, role=Role.ROI, rules=TWO_STAGE)
@MODELS.register_module()
class RankBasedDoubleHeadRoIHead(RankBasedRoIHead, DoubleHeadRoIHead):
    """``DoubleHeadRoIHead`` for ranking losses; arguments as for MMDetection's head."""
