"""Dense heads trained with ranking losses, and the heads of Co-DETR."""

from ..recipes import import_ranking_heads
from .auxiliary_sets import AuxiliarySetsMixin
from .co_atss_head import CoATSSHead, CoATSSHeadMixin, RankBasedCoATSSHead
from .co_deform_detr_head import CoDeformDETRHead, RankBasedCoDeformDETRHead
from .co_dino_head import CoDINOHead, RankBasedCoDINOHead
from .query_ranking import QueryRankingMixin
from .query_sets import QuerySet, QueryTargets, match_queries
from .rank_based_atss_head import RankBasedATSSHead
from .rank_based_fcos_head import RankBasedFCOSHead
from .rank_based_gfl_head import RankBasedGFLHead
from .rank_based_paa_head import RankBasedPAAHead
from .rank_based_retina_head import RankBasedRetinaHead, RankBasedRetinaSepBNHead
from .rank_based_rpn_head import RankBasedRPNHead
from .rank_based_rtmdet_head import RankBasedRTMDetHead, RankBasedRTMDetSepBNHead, RankingRTMDetHeadMixin
from .ranking_mixin import RankingDenseHeadMixin, RankingHeadMixin
from .score_assignment import CandidateScoreMixin, RankingDecodedHeadMixin, ScorePriorMixin

__all__ = [
    'AuxiliarySetsMixin',
    'CandidateScoreMixin',
    'CoATSSHead',
    'CoATSSHeadMixin',
    'CoDINOHead',
    'CoDeformDETRHead',
    'QueryRankingMixin',
    'QuerySet',
    'QueryTargets',
    'RankBasedATSSHead',
    'RankBasedCoATSSHead',
    'RankBasedCoDINOHead',
    'RankBasedCoDeformDETRHead',
    'RankBasedFCOSHead',
    'RankBasedGFLHead',
    'RankBasedPAAHead',
    'RankBasedRPNHead',
    'RankBasedRTMDetHead',
    'RankBasedRTMDetSepBNHead',
    'RankBasedRetinaHead',
    'RankBasedRetinaSepBNHead',
    'RankingDecodedHeadMixin',
    'RankingDenseHeadMixin',
    'RankingHeadMixin',
    'RankingRTMDetHeadMixin',
    'ScorePriorMixin',
    'match_queries',
]

# The file of a ranking head registers it. This exports those that are not imported by name above.
_heads = import_ranking_heads(__name__, __path__)
globals().update(_heads)
__all__ += [name for name in _heads if name not in __all__]
