"""Ranking losses as registered modules and the box weighting that goes with them."""

from .alrp_loss import aLRPLoss
from .box_weighting import (
    check_decodes_boxes,
    check_head_losses,
    check_ranks,
    highest_probability,
    prior_logit,
    ranking_and_box_losses,
    score_weighted_box_loss,
    self_balance,
)
from .dr_loss import DRLoss
from .ranking_losses import APLoss, BucketedAPLoss, BucketedRSLoss, ImageRows, RankingLoss, RSLoss

__all__ = [
    'APLoss',
    'BucketedAPLoss',
    'BucketedRSLoss',
    'DRLoss',
    'ImageRows',
    'RSLoss',
    'RankingLoss',
    'aLRPLoss',
    'check_decodes_boxes',
    'check_head_losses',
    'check_ranks',
    'highest_probability',
    'prior_logit',
    'ranking_and_box_losses',
    'score_weighted_box_loss',
    'self_balance',
]
