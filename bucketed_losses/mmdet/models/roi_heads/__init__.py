"""R-CNN heads trained with ranking losses, and the R-CNN heads of Co-DETR."""

from ..recipes import import_ranking_heads
from .co_roi_heads import CoRoIHeadMixin, CoStandardRoIHead, RankBasedCoRoIHead
from .rank_based_bbox_heads import (
    RankBasedBBoxHead,
    RankBasedConvFCBBoxHead,
    RankBasedShared2FCBBoxHead,
    RankBasedShared4Conv1FCBBoxHead,
    RankedRoIsMixin,
    RankingBBoxHeadMixin,
)
from .rank_based_mask_head import RankBasedFCNMaskHead, RankingMaskHeadMixin
from .rank_based_roi_heads import RankBasedCascadeRoIHead, RankBasedRoIHead, RankingRoIHeadMixin

__all__ = [
    'CoRoIHeadMixin',
    'CoStandardRoIHead',
    'RankBasedBBoxHead',
    'RankBasedCascadeRoIHead',
    'RankBasedCoRoIHead',
    'RankBasedConvFCBBoxHead',
    'RankBasedFCNMaskHead',
    'RankBasedRoIHead',
    'RankBasedShared2FCBBoxHead',
    'RankBasedShared4Conv1FCBBoxHead',
    'RankedRoIsMixin',
    'RankingBBoxHeadMixin',
    'RankingMaskHeadMixin',
    'RankingRoIHeadMixin',
]

# The file of a ranking head registers and exports it; it need not be named here.
_heads = import_ranking_heads(__name__, __path__)
globals().update(_heads)
__all__ += [name for name in _heads if name not in __all__]
