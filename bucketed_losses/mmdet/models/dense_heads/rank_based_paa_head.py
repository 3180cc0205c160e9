"""PAA trained with a ranking loss."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import PAAHead
from mmdet.models.utils import levels_to_images, multi_apply
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..losses import ImageRows, prior_logit
from ..losses.box_weighting import at_least_float32
from ..recipes import Role, ranking_head
from .rank_based_atss_head import ATSS_RULES, RankBasedATSSHead


@ranking_head(PAAHead, role=Role.DENSE, rules=ATSS_RULES, unused=['loss_centerness'])
@MODELS.register_module()
class RankBasedPAAHead(RankBasedATSSHead, PAAHead):
    """``PAAHead`` without its IoU branch; anchors are assigned, and detections voted on, as MMDetection's does.

    PAA scores each candidate anchor by its own loss. A ranking loss has no value per anchor, so the score keeps PAA's
    focal loss, which is only read and never trained. Focal loss reads probabilities, which ranking logits are not:
    their common shift means nothing, and here they start at 0. The score therefore reads them lowered to the prior
    probability that a detector with focal loss starts from.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_score: Config of the classification loss in PAA's anchor scores.
        score_prior: The probability, for that loss, of a logit of 0; in (0, 1).
        kwargs: As for :class:`mmdet.models.PAAHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    def __init__(
        self,
        *args: Any,
        loss_cls: dict,
        loss_score: dict | None = None,
        score_prior: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, loss_cls=loss_cls, **kwargs)
        self.score_shift = prior_logit(self, score_prior)
        self.loss_score = MODELS.build(
            loss_score or dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
        )

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.PAAHead.loss_by_feat`, less the IoUs."""
        featmap_sizes = [level.shape[-2:] for level in cls_scores]
        anchors, valid_flags = self.get_anchors(featmap_sizes, batch_img_metas, device=cls_scores[0].device)
        labels, label_weights, bbox_targets, bbox_weights, pos_inds, pos_gt_index = self.get_targets(
            anchors, valid_flags, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        logits = [at_least_float32(x.reshape(-1, self.cls_out_channels)) for x in levels_to_images(cls_scores)]
        deltas = [at_least_float32(x.reshape(-1, 4)) for x in levels_to_images(bbox_preds)]
        with torch.no_grad():
            (scores,) = multi_apply(
                self.get_pos_loss, anchors, logits, deltas, labels, label_weights, bbox_targets, bbox_weights, pos_inds
            )
            labels, label_weights, *_ = multi_apply(
                self.paa_reassign, scores, labels, label_weights, bbox_weights, pos_inds, pos_gt_index, anchors
            )
        images = None
        if self.loss_cls.needs_images:
            rows = [torch.full_like(image, index) for index, image in enumerate(labels)]
            images = ImageRows(torch.cat(rows), len(labels))
        return self.ranking_losses(
            torch.cat(logits),
            torch.cat(deltas),
            torch.cat([torch.cat(image) for image in anchors]),
            torch.cat(labels),
            torch.cat(label_weights),
            torch.cat(bbox_targets),
            images,
        )

    def get_pos_loss(
        self,
        anchors: list[Tensor],
        cls_score: Tensor,
        bbox_pred: Tensor,
        label: Tensor,
        label_weight: Tensor,
        bbox_target: Tensor,
        bbox_weight: Tensor,
        pos_inds: Tensor,
    ) -> tuple[Tensor]:
        """PAA's anchor scores ``(num_pos,)`` of an image; arguments as :meth:`mmdet.models.PAAHead.get_pos_loss`."""
        boxes = self.bbox_coder.decode(torch.cat(anchors)[pos_inds], bbox_pred[pos_inds])
        classification = self.loss_score(
            cls_score[pos_inds] + self.score_shift, label[pos_inds], label_weight[pos_inds], reduction_override='none'
        )
        localisation = self.loss_bbox(
            boxes, bbox_target[pos_inds], bbox_weight[pos_inds].mean(dim=1), reduction_override='none'
        )
        # float64 for the Gaussian mixture: scores of many classes may be large and nearly equal, and scikit-learn would
        # find negative variances in float32.
        return ((classification.sum(dim=-1) + localisation).double(),)

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None = None,
        **kwargs: Any,
    ) -> InstanceList:
        """Detections; arguments as for :meth:`mmdet.models.PAAHead.predict_by_feat`, without ``score_factors``."""
        # No branch doubts the class scores: an IoU of sigmoid(inf) = 1 everywhere.
        certain = [x.new_full((len(x), self.num_base_priors, *x.shape[-2:]), float('inf')) for x in bbox_preds]
        return super().predict_by_feat(cls_scores, bbox_preds, certain, **kwargs)

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: ConfigType,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: OptConfigType = None,
    ) -> InstanceData:
        # PAA's detections are scored sqrt(class score * IoU); squared, the class score comes out as it is.
        results.scores = results.scores**2
        return super()._bbox_post_process(results, cfg, rescale, with_nms, img_meta)
