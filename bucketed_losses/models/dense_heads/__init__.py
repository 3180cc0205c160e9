"""Dense heads trained with ranking losses."""

from .rank_based_atss_head import RankBasedATSSHead
from .ranking_mixin import RankingDenseHeadMixin

__all__ = ['RankBasedATSSHead', 'RankingDenseHeadMixin']
