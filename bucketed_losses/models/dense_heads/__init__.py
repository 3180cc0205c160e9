"""Dense heads trained with ranking losses."""

from .rank_based_atss_head import RankBasedATSSHead
from .rank_based_paa_head import RankBasedPAAHead
from .rank_based_retina_head import RankBasedRetinaHead
from .rank_based_rpn_head import RankBasedRPNHead
from .ranking_mixin import RankingDenseHeadMixin

__all__ = [
    'RankBasedATSSHead',
    'RankBasedPAAHead',
    'RankBasedRPNHead',
    'RankBasedRetinaHead',
    'RankingDenseHeadMixin',
]
