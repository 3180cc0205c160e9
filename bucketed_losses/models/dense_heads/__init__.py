"""Dense heads trained with ranking losses, and the heads of Co-DETR."""

from .co_atss_head import CoATSSHead, CoATSSHeadMixin, RankBasedCoATSSHead
from .co_deform_detr_head import CoDeformDETRHead, QueryTargets, RankBasedCoDeformDETRHead
from .rank_based_atss_head import RankBasedATSSHead
from .rank_based_paa_head import RankBasedPAAHead
from .rank_based_retina_head import RankBasedRetinaHead
from .rank_based_rpn_head import RankBasedRPNHead
from .ranking_mixin import RankingDenseHeadMixin

__all__ = [
    'CoATSSHead',
    'CoATSSHeadMixin',
    'CoDeformDETRHead',
    'QueryTargets',
    'RankBasedATSSHead',
    'RankBasedCoATSSHead',
    'RankBasedCoDeformDETRHead',
    'RankBasedPAAHead',
    'RankBasedRPNHead',
    'RankBasedRetinaHead',
    'RankingDenseHeadMixin',
]
