"""PISA Faster and Mask R-CNN: with a ranking loss, the RoI head of PISA is the plain one."""

from mmdet.models.roi_heads import PISARoIHead

from ..recipes import Role, ranking_head
from ..rules import no_sample_weights
from .rank_based_roi_heads import TWO_STAGE, RankBasedRoIHead

ranking_head(PISARoIHead, role=Role.ROI, rules=(*TWO_STAGE, no_sample_weights()))(RankBasedRoIHead)
