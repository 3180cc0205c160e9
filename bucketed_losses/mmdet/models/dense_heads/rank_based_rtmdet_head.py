"""RTMDet trained with a ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdet.models.dense_heads import RTMDetHead, RTMDetSepBNHead
from mmdet.registry import MODELS

from ..recipes import Role, ranking_head
from ..rules import decoded_box_loss, nothing_sampled, ranking_loss
from .score_assignment import RankingDecodedHeadMixin

if TYPE_CHECKING:
    from mmdet.models.dense_heads import RTMDetHead as _Host
else:
    _Host = object

# RTMDet's boxes are distances. Without a loss_bbox in the config, it uses AnchorHead's default, which is on deltas.
RTMDET_RULES = (ranking_loss(), decoded_box_loss(2.0), nothing_sampled())


class RankingRTMDetHeadMixin(RankingDecodedHeadMixin, _Host):
    """A mixin for ``RTMDetHead`` and its subclasses: a ranking loss in place of Quality Focal Loss.

    RTMDet assigns objects by a cost of class scores and boxes. The class cost is a cross-entropy, which interprets
    logits as probabilities. Other heads lower ranking logits for their assigner. These do not: their AP was higher.

    Args:
        score_prior: As for :class:`ScorePriorMixin`.
        args, kwargs: As for the head.

    Raises:
        ValueError: As :class:`RankingDecodedHeadMixin`.
    """

    own_init = True

    def __init__(self, *args: Any, score_prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, score_prior=score_prior, **kwargs)

    @property
    def classifiers(self) -> tuple[str, ...]:  # type: ignore[override]
        # The score is the geometric mean of both branches' probabilities.
        return ('rtm_cls', 'rtm_obj') if self.with_objectness else ('rtm_cls',)


@ranking_head(RTMDetHead, role=Role.DENSE, rules=RTMDET_RULES)
@MODELS.register_module()
class RankBasedRTMDetHead(RankingRTMDetHeadMixin, RTMDetHead):
    """``RTMDetHead`` trained with a ranking loss; arguments as for MMDetection's head, and ``score_prior``."""


@ranking_head(RTMDetSepBNHead, role=Role.DENSE, rules=RTMDET_RULES)
@MODELS.register_module()
class RankBasedRTMDetSepBNHead(RankingRTMDetHeadMixin, RTMDetSepBNHead):
    """``RTMDetSepBNHead`` trained with a ranking loss; arguments as for MMDetection's head, and ``score_prior``."""
