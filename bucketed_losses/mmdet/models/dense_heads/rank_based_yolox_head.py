"""YOLOX trained with a ranking loss in place of its losses of classes and objectness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import YOLOXHead
from mmdet.registry import MODELS
from mmdet.utils import OptInstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from ..losses.box_weighting import score_weights, weighted_mean
from ..recipes import Role, ranking_head
from ..rules import POINT_HEAD
from .joint_logits import product_logit
from .ranking_mixin import RankingHeadMixin, flatten_maps
from .score_assignment import ScorePriorMixin


@ranking_head(YOLOXHead, role=Role.DENSE, rules=POINT_HEAD, unused=['loss_obj'])
@MODELS.register_module()
class RankBasedYOLOXHead(ScorePriorMixin, RankingHeadMixin, YOLOXHead):
    """``YOLOXHead`` trained with a ranking loss.

    All levels and images are ranked together. The score is the product of the probabilities of the class branch and the
    objectness branch, as in ``YOLOXHead``. Its logit is what is ranked, because detections are sorted by it. The
    ranking loss trains both branches, so the head has no loss of objectness. The target of a positive is the IoU of its
    box. In the epochs with ``use_l1``, the L1 loss is weighted by scores as the box loss is, and balanced together with
    it. SimOTA reads both probabilities, so it gets shifted logits.

    ``YOLOXHead`` limits detections by ``score_thr`` alone, above which nearly all ranking scores are. So this head
    takes the best ``nms_pre`` (1000) boxes of an image to NMS, and keeps the best ``max_per_img`` (300) of what is
    left, unless ``test_cfg`` sets other numbers.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_obj: Not used; accepted so that a config may inherit one written for ``YOLOXHead``.
        score_prior: The probability that an initial logit of each branch has in the assigner; in (0, 1).
        kwargs: As for :class:`mmdet.models.YOLOXHead`. The biases of both branches start with a score of 0.5.
    """

    classifiers = ('multi_level_conv_cls', 'multi_level_conv_obj')
    num_factors = 2
    assigned_by_boxes = True
    own_init = True

    def __init__(self, *args: Any, loss_cls: dict, loss_obj: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, loss_cls=loss_cls, **kwargs)
        del self.loss_obj

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: ConfigDict,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: dict | None = None,
    ) -> InstanceData:
        results = _best(results, cfg.get('nms_pre', 1000))
        results = super()._bbox_post_process(results, cfg, rescale, with_nms, img_meta)
        return _best(results, cfg.get('max_per_img', 300)) if with_nms else results

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.YOLOXHead.loss_by_feat`.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox`` and, with ``use_l1``, ``loss_l1``. If there is no
            positive, all are 0 and connected to the predictions, except with DR Loss or a memory.
        """
        num_images = len(batch_img_metas)
        sizes = [level.shape[-2:] for level in cls_scores]
        levels = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device, with_stride=True)
        priors = torch.cat([level.repeat(num_images, 1) for level in levels])
        classes, objectness = flatten_maps(cls_scores, self.cls_out_channels), flatten_maps(objectnesses, 1)
        predictions = flatten_maps(bbox_preds, 4)
        images = torch.cat(
            [torch.arange(num_images, device=priors.device).repeat_interleave(len(level)) for level in levels]
        )
        labels = priors.new_full((len(priors),), self.num_classes, dtype=torch.long)
        bbox_targets = torch.zeros_like(priors)
        with torch.no_grad():
            scores = (classes + self.score_shift).sigmoid() * (objectness + self.score_shift).sigmoid()
            boxes = self.decode(priors, predictions)
            for image, objects in enumerate(batch_gt_instances):
                rows = (images == image).nonzero().squeeze(1)
                # The assigner raises an error for NaN, and InvalidLossHook cannot report the training.
                own_scores, own_boxes = scores[rows].sqrt().nan_to_num(), boxes[rows].nan_to_num(0, 0, 0)
                assigned = self.assign(own_scores, own_boxes, priors[rows], objects)
                positive = (assigned >= 0).nonzero().squeeze(1)
                labels[rows[positive]] = objects.labels[assigned[positive]]
                bbox_targets[rows[positive]] = objects.bboxes[assigned[positive]].to(bbox_targets)
        return self.ranking_losses(
            product_logit(classes, objectness),
            predictions,
            priors,
            labels,
            torch.ones_like(labels),
            bbox_targets,
            self.image_rows([len(level) for level in levels], num_images, labels.device),
        )

    def assign(self, scores: Tensor, boxes: Tensor, priors: Tensor, objects: InstanceData) -> Tensor:
        """The index of the object that each prediction of an image is assigned to, ``(n,)``; -1 for background.

        Args:
            scores: ``(n, num_classes)`` geometric means of the shifted probabilities of both branches.
            boxes: ``(n, 4)`` decoded boxes in pixels.
            priors: ``(n, 4)`` x, y and strides. YOLOX assigns the centres of cells, but regresses from their corners.
            objects: The objects of the image.
        """
        centers = torch.cat([priors[:, :2] + priors[:, 2:] / 2, priors[:, 2:]], dim=1)
        predictions = InstanceData(bboxes=boxes, scores=scores, priors=centers)
        return self.assigner.assign(pred_instances=predictions, gt_instances=objects).gt_inds - 1

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        """Boxes ``(n, 4)`` of centre shifts and log sizes ``(n, 4)``, both in strides; priors as for :meth:`assign`."""
        return self._bbox_decode(priors, predictions)

    def other_box_losses(
        self, priors: Tensor, predictions: Tensor, targets: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """``loss_l1`` of centre shifts and log sizes, if ``use_l1`` is set."""
        if not self.use_l1:
            return {}
        weights, total = score_weights(logits, self.loss_cls.shared, self.loss_cls.equal_box_weights)
        if len(priors) == 0:
            return {'loss_l1': predictions.sum() * 0}
        encoded = self._get_l1_target(torch.zeros_like(targets), targets, priors)
        losses = self.loss_l1(predictions, encoded, reduction_override='none').sum(dim=1)
        return {'loss_l1': weighted_mean(losses, weights, total)}


def _best(results: InstanceData, number: int) -> InstanceData:
    """The detections with the highest scores; all of them if the number is negative, as ``nms_pre`` may be."""
    return results[results.scores.topk(number).indices] if 0 <= number < len(results) else results
