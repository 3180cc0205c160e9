"""PISA SSD: with a ranking loss, its head is that of SSD."""

from mmdet.models.dense_heads import PISASSDHead

from ..recipes import Role, ranking_head
from ..rules import no_sample_weights
from .rank_based_ssd_head import SSD_RULES, RankBasedSSDHead

ranking_head(PISASSDHead, role=Role.DENSE, rules=(*SSD_RULES, no_sample_weights()))(RankBasedSSDHead)
