"""RTMDet trained with a ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import RTMDetHead, RTMDetSepBNHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import distance2bbox
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..recipes import Role, ranking_head
from ..rules import decoded_box_loss, nothing_sampled, ranking_loss
from .ranking_mixin import RankingDenseHeadMixin, flatten_maps, flatten_targets

if TYPE_CHECKING:
    from mmdet.models.dense_heads import RTMDetHead as _Host
else:
    _Host = object

# RTMDet's boxes are distances. Without a loss_bbox in the config, it uses AnchorHead's default, which is on deltas.
_RULES = (ranking_loss(), decoded_box_loss(2.0), nothing_sampled())


class RankingRTMDetHeadMixin(RankingDenseHeadMixin, _Host):
    """A mixin for ``RTMDetHead`` and its subclasses: a ranking loss in place of Quality Focal Loss.

    RTMDet assigns objects by a cost of class scores and boxes. The class cost is a cross-entropy, which interprets
    logits as probabilities. Ranking logits have no such meaning, so they are shifted for the assigner: a logit of 0
    then has the prior probability that a detector with focal loss starts from, as in ``RankBasedPAAHead``.

    Args:
        score_prior: The probability that an initial logit has in the assigner; in (0, 1).
        args, kwargs: As for the head.

    Raises:
        ValueError: As :class:`RankingDenseHeadMixin`, or ``score_prior`` is not in (0, 1).
    """

    own_init = True

    def __init__(self, *args: Any, score_prior: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.score_shift = self.shift_to_prior(score_prior)

    @property
    def classifiers(self) -> tuple[str, ...]:  # type: ignore[override]
        # The score is the geometric mean of both branches' probabilities.
        return ('rtm_cls', 'rtm_obj') if self.with_objectness else ('rtm_cls',)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.RTMDetHead.loss_by_feat`."""
        num_images = len(batch_img_metas)
        featmap_sizes = [level.shape[-2:] for level in cls_scores]
        priors, valid_flags = self.get_anchors(featmap_sizes, batch_img_metas, device=cls_scores[0].device)
        logits = [flatten_maps([level], self.cls_out_channels) for level in cls_scores]
        boxes = [
            distance2bbox(level.repeat(num_images, 1), flatten_maps([distances], 4))
            for level, distances in zip(priors[0], bbox_preds, strict=True)
        ]
        by_image = (
            torch.cat([level.detach().reshape(num_images, -1, level.size(1)) for level in levels], dim=1)
            for levels in (logits, boxes)
        )
        scores, detached_boxes = by_image
        _, labels, label_weights, bbox_targets, *_ = self.get_targets(
            scores + self.score_shift,
            detached_boxes,
            priors,
            valid_flags,
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore,
        )
        flat_boxes = torch.cat(boxes)
        return self.ranking_losses(
            torch.cat(logits),
            flat_boxes,
            flat_boxes,
            flatten_targets(labels),
            flatten_targets(label_weights),
            flatten_targets(bbox_targets),
            self.image_rows([level.size(1) for level in labels], num_images, scores.device),
        )

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        """The predictions unchanged: they were decoded for the assignment."""
        return predictions


@ranking_head(RTMDetHead, role=Role.DENSE, rules=_RULES)
@MODELS.register_module()
class RankBasedRTMDetHead(RankingRTMDetHeadMixin, RTMDetHead):
    """``RTMDetHead`` trained with a ranking loss; arguments as for MMDetection's head, and ``score_prior``."""


@ranking_head(RTMDetSepBNHead, role=Role.DENSE, rules=_RULES)
@MODELS.register_module()
class RankBasedRTMDetSepBNHead(RankingRTMDetHeadMixin, RTMDetSepBNHead):
    """``RTMDetSepBNHead`` trained with a ranking loss; arguments as for MMDetection's head, and ``score_prior``."""
