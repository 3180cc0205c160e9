"""Ranking losses as registered modules, and the weighting of box losses that are trained with them.

:mod:`~bucketed_losses.mmdet.models.losses.comparators` has losses that rank nothing, for studies.
"""

from . import comparators
from .alrp_loss import aLRPLoss
from .box_weighting import (
    PositiveBoxes,
    SeparateBoxes,
    highest_probability,
    ranking_and_box_losses,
    score_weighted_box_loss,
    self_balance,
)
from .dr_loss import DRLoss
from .head_checks import (
    check_decodes_boxes,
    check_head_losses,
    check_no_sampling,
    check_ranks,
    prior_logit,
    takes_decoded_boxes,
)
from .ranking_losses import APLoss, BucketedAPLoss, BucketedRSLoss, ImageRows, RankingLoss, RowSets, RSLoss

__all__ = [
    'APLoss',
    'BucketedAPLoss',
    'BucketedRSLoss',
    'DRLoss',
    'ImageRows',
    'PositiveBoxes',
    'RSLoss',
    'RankingLoss',
    'RowSets',
    'SeparateBoxes',
    'aLRPLoss',
    'check_decodes_boxes',
    'check_head_losses',
    'check_no_sampling',
    'check_ranks',
    'comparators',
    'highest_probability',
    'prior_logit',
    'ranking_and_box_losses',
    'score_weighted_box_loss',
    'self_balance',
    'takes_decoded_boxes',
]
