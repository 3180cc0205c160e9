"""The losses that users would pick instead of a ranking loss: pointwise, with IoUs as targets.

A config that inherits this file and a stock config sets the type of the ranking head, ``classifier_prior=0.01``, and
``loss_cls`` to one of these, for example ``_base_.rival_quality_focal``.
"""

rival_quality_focal = dict(
    _delete_=True, type='PointwiseLoss', loss=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0)
)
rival_varifocal = dict(
    _delete_=True, type='PointwiseLoss', loss=dict(type='VarifocalLoss', use_sigmoid=True, alpha=0.75, gamma=2.0)
)
rival_ia_bce = dict(_delete_=True, type='PointwiseLoss', loss=dict(type='IABCELoss', alpha=0.25, gamma=2.0))
rival_matchability_aware = dict(_delete_=True, type='PointwiseLoss', loss=dict(type='MatchabilityAwareLoss', gamma=1.5))
