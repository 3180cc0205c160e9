"""PAA trained with a ranking loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import PAAHead
from mmdet.models.layers import multiclass_nms
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmdet.structures.bbox import scale_boxes
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..losses import ImageRows
from ..recipes import Role, ranking_head
from .rank_based_atss_head import ATSS_RULES, RankBasedATSSHead
from .ranking_mixin import maps_by_image
from .score_assignment import CandidateScoreMixin


class ImagePredictions(NamedTuple):
    """Anchors of all levels and the predictions for them, for each image of a batch.

    Attributes:
        anchors: ``(num_anchors, 4)`` of each level of each image.
        valid_flags: ``(num_anchors,)`` of each level of each image.
        logits: ``(num_images, n, num_classes)``, level by level.
        deltas: ``(num_images, n, 4)``, level by level.
    """

    anchors: list[list[Tensor]]
    valid_flags: list[list[Tensor]]
    logits: Tensor
    deltas: Tensor


@ranking_head(PAAHead, role=Role.DENSE, rules=ATSS_RULES, unused=['loss_centerness'])
@MODELS.register_module()
class RankBasedPAAHead(CandidateScoreMixin, RankBasedATSSHead, PAAHead):
    """``PAAHead`` trained with a ranking loss, without its IoU branch.

    It assigns anchors and votes on detections as ``PAAHead`` does. PAA scores each candidate anchor by the anchor's own
    loss. A ranking loss has no value per anchor, so these scores are still computed with PAA's focal loss, which has no
    gradient here. Focal loss interprets logits as probabilities. Ranking logits have no such meaning: a common shift
    does not change the ranking loss, and they start at 0. They are therefore shifted for the scores, so that a logit of
    0 has the prior probability that a detector with focal loss starts from.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_score: Config of the classification loss in PAA's anchor scores.
        score_prior: The probability that an initial logit has in ``loss_score``; in (0, 1). With a ``classifier_prior``
            of the same value, logits are not shifted, as in the published code.
        kwargs: As for :class:`mmdet.models.PAAHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.PAAHead.loss_by_feat`, without IoUs."""
        predictions = self.predictions_of_images(cls_scores, bbox_preds, batch_img_metas)
        assigned = self.assign(predictions, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
        return self.assigned_losses(predictions, *assigned)

    def predictions_of_images(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], batch_img_metas: list[dict]
    ) -> ImagePredictions:
        """Anchors and predictions of each image; arguments as for :meth:`loss_by_feat`."""
        featmap_sizes = [level.shape[-2:] for level in cls_scores]
        anchors, valid_flags = self.get_anchors(featmap_sizes, batch_img_metas, device=cls_scores[0].device)
        return ImagePredictions(
            anchors,
            valid_flags,
            maps_by_image(cls_scores, self.cls_out_channels),
            maps_by_image(bbox_preds, 4),
        )

    @torch.no_grad()
    def assign(
        self,
        predictions: ImagePredictions,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """PAA's assignment by the scores of the candidates; the other arguments are those of :meth:`loss_by_feat`.

        Returns:
            Labels ``(n,)``, label weights ``(n,)`` and target boxes ``(n, 4)``, image by image.
        """
        anchors, valid_flags, logits, deltas = predictions
        labels, label_weights, bbox_targets, bbox_weights, pos_inds, pos_gt_index = self.get_targets(
            anchors, valid_flags, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        (scores,) = multi_apply(
            self.get_pos_loss, anchors, logits, deltas, labels, label_weights, bbox_targets, bbox_weights, pos_inds
        )
        labels, label_weights, *_ = multi_apply(
            self._split, scores, labels, label_weights, bbox_weights, pos_inds, pos_gt_index, anchors
        )
        return torch.cat(labels), torch.cat(label_weights), torch.cat(bbox_targets)

    def assigned_losses(
        self, predictions: ImagePredictions, labels: Tensor, label_weights: Tensor, bbox_targets: Tensor
    ) -> dict[str, Tensor]:
        """Losses of predictions and what :meth:`assign` returns for them."""
        images = None
        if self.loss_cls.needs_images:
            num_images, num_anchors = predictions.logits.shape[:2]
            rows = torch.arange(num_images, device=labels.device).repeat_interleave(num_anchors)
            images = ImageRows(rows, num_images)
        return self.ranking_losses(
            predictions.logits.flatten(0, 1),
            predictions.deltas.flatten(0, 1),
            torch.cat([torch.cat(image) for image in predictions.anchors]),
            labels,
            label_weights,
            bbox_targets,
            images,
        )

    def _split(
        self, scores: Tensor, label: Tensor, label_weight: Tensor, bbox_weight: Tensor, pos_inds: Tensor, *args: Any
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """``paa_reassign`` for one image; if a score is not finite, all candidates of the image stay positive.

        scikit-learn's mixture model does not accept scores that are not finite. Positives with such scores make the
        loss NaN.

        Raises:
            FloatingPointError: The mixture model fails on finite scores, which happens if they are very large.
        """
        if not scores.isfinite().all():
            return label, label_weight, bbox_weight, len(pos_inds)
        try:
            return self.paa_reassign(scores, label, label_weight, bbox_weight, pos_inds, *args)
        except ValueError as error:
            raise FloatingPointError(
                f'{type(self).__name__}: the mixture model that splits candidate anchors failed; their scores lie '
                f'between {scores.min().item():g} and {scores.max().item():g}. If they are large, the training '
                'diverges: lower the learning rate, or clip gradients (optim_wrapper.clip_grad)'
            ) from error

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
        if len(pos_inds) == 0:  # mmcv's focal loss on a GPU needs a row
            return (cls_score.new_zeros(0, dtype=torch.float64),)
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

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor | None],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: OptConfigType = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Detections of one image; arguments as for :class:`mmdet.models.PAAHead`.

        The score is that of the class. ``score_factor_list``, which holds the IoUs in ``PAAHead``, is not used.
        """
        cfg = self.test_cfg if cfg is None else cfg
        nms_pre = cfg.get('nms_pre', -1)
        boxes, scores = [], []
        for cls_score, bbox_pred, priors in zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True):
            level_scores = cls_score.permute(1, 2, 0).reshape(-1, self.cls_out_channels).sigmoid()
            deltas = bbox_pred.permute(1, 2, 0).reshape(-1, 4)
            if 0 < nms_pre < len(level_scores):
                best = level_scores.amax(dim=1).topk(nms_pre).indices
                level_scores, deltas, priors = level_scores[best], deltas[best], priors[best]
            boxes.append(self.bbox_coder.decode(priors, deltas, max_shape=img_meta['img_shape']))
            scores.append(level_scores)
        results = InstanceData(bboxes=torch.cat(boxes), scores=torch.cat(scores))
        return self._bbox_post_process(results, cfg, rescale, with_nms, img_meta)

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: ConfigType,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: OptConfigType = None,
    ) -> InstanceData:
        """NMS and, if the head has it, score voting.

        Args:
            results: ``bboxes (n, 4)`` and ``scores (n, num_classes)``.
            cfg, rescale, img_meta: As for :class:`mmdet.models.PAAHead`.
            with_nms: Not used: as in MMDetection, NMS is always applied.
        """
        boxes = results.bboxes
        if rescale:
            boxes = scale_boxes(boxes, [1 / scale for scale in img_meta['scale_factor']])
        scores = torch.nn.functional.pad(results.scores, (0, 1))  # multiclass_nms expects a column for background
        detections, labels = multiclass_nms(boxes, scores, cfg.score_thr, cfg.nms, cfg.max_per_img)
        if self.with_score_voting and len(detections):
            detections, labels = self.score_voting(detections, labels, boxes, scores, cfg.score_thr)
        return InstanceData(bboxes=detections[:, :4], scores=detections[:, 4], labels=labels)
