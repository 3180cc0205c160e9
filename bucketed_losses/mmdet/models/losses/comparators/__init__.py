"""Losses that rank nothing, for studies that compare ranking losses with them.

They are not part of the method of this package. ``PointwiseLoss`` carries any of them, or a loss of MMDetection, into
the heads of this package.
"""

from .ia_bce_loss import IABCELoss, ia_bce_loss
from .matchability_aware_loss import MatchabilityAwareLoss, matchability_aware_loss
from .pointwise_loss import PointwiseLoss

__all__ = ['IABCELoss', 'MatchabilityAwareLoss', 'PointwiseLoss', 'ia_bce_loss', 'matchability_aware_loss']
