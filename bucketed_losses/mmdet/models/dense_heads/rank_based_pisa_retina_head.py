"""PISA RetinaNet: with a ranking loss, its head is that of RetinaNet."""

from mmdet.models.dense_heads import PISARetinaHead

from ..recipes import Role, ranking_head
from ..rules import ANCHOR_HEAD, no_sample_weights
from .rank_based_retina_head import RankBasedRetinaHead

ranking_head(PISARetinaHead, role=Role.DENSE, rules=(*ANCHOR_HEAD, no_sample_weights()))(RankBasedRetinaHead)
