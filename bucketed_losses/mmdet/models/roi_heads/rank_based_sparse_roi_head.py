"""Sparse R-CNN and QueryInst trained with ranking losses: each stage is a set of queries, matched one-to-one."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import SparseRCNN
from mmdet.models.losses import accuracy
from mmdet.models.roi_heads import SparseRoIHead
from mmdet.models.roi_heads.bbox_heads import DIIHead
from mmdet.models.roi_heads.mask_heads import DynamicMaskHead
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..dense_heads.query_ranking import QueryLossesMixin
from ..dense_heads.query_sets import QuerySet, QueryTargets, objects_to_match
from ..losses.box_weighting import at_least_float32, box_weights
from ..losses.head_checks import check_sigmoid_costs
from ..recipes import Layout, Role, Slot, holds_heads, ranking_head
from ..rules import matching_costs, ranking_loss, without_second_box_loss
from .rank_based_mask_head import MASK_HEAD, WEIGHTED_MASKS, RankingMaskHeadMixin
from .rank_based_roi_heads import INNER_HEADS, RankingRoIHeadMixin

# The rpn_head of Sparse R-CNN contains learned boxes and features. It has no scores and no loss.
holds_heads(Layout((Slot('roi_head', (Role.ROI,), ('rcnn',), required=True),)))(SparseRCNN)


@ranking_head(DIIHead, role=Role.BOX, rules=(without_second_box_loss(), ranking_loss(weight=2.0)))
@MODELS.register_module()
class RankBasedDIIHead(QueryLossesMixin, DIIHead):
    """``DIIHead`` trained with a ranking loss, in :class:`RankBasedSparseRoIHead`.

    Arguments and errors are those of :class:`~bucketed_losses.mmdet.models.dense_heads.query_ranking.QueryLossesMixin`.
    """

    classifiers = ('fc_cls',)
    baseline = 'DIIHead'

    def both_forms(self, boxes: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """As in :class:`QueryLossesMixin`; sets have boxes in pixels, and L1 compares corners, as in Sparse R-CNN."""
        return boxes / sizes, boxes

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        sampling_results: list,
        rcnn_train_cfg: Any,
        imgs_whwh: Tensor,
        concat: bool = True,
        reduction_override: str | None = None,
    ) -> dict:
        """The queries of this stage with their targets; the RoI head computes the losses of all stages together.

        Args:
            cls_score: ``(batch * n, num_classes)`` logits.
            bbox_pred: ``(batch * n, 4)`` decoded boxes, x1 y1 x2 y2 in pixels.
            sampling_results: The sampling result of each image; all have ``n`` queries.
            rcnn_train_cfg: The ``train_cfg`` of this stage.
            imgs_whwh, concat, reduction_override: Not used.

        Returns:
            A dict with ``bbox_targets``, as in ``DIIHead``, and with ``loss_bbox``: a dict with ``pos_acc`` and with
            ``queries``, a :class:`~bucketed_losses.mmdet.models.dense_heads.QuerySet`.
        """
        batch, num = len(sampling_results), len(cls_score) // len(sampling_results)
        targets = labels, label_weights, bbox_targets, _ = self.get_targets(sampling_results, rcnn_train_cfg)
        positive = torch.cat([result.pos_inds + image * num for image, result in enumerate(sampling_results)])
        queries = QuerySet(
            '',
            cls_score.view(batch, num, -1),
            bbox_pred.view(batch, num, 4),
            QueryTargets(
                labels.view(batch, num), label_weights.view(batch, num), bbox_targets.view(batch, num, 4), positive
            ),
        )
        pos_acc = accuracy(cls_score[positive], labels[positive])
        return dict(loss_bbox=dict(pos_acc=pos_acc, queries=queries), bbox_targets=targets)


@ranking_head(DynamicMaskHead, role=Role.MASK, rules=MASK_HEAD, reason=WEIGHTED_MASKS)
@MODELS.register_module()
class RankBasedDynamicMaskHead(RankingMaskHeadMixin, DynamicMaskHead):
    """``DynamicMaskHead`` of QueryInst with a mask loss weighted by scores.

    Arguments are those of :class:`RankingMaskHeadMixin`. ``DynamicMaskHead`` takes the sigmoid of its logits itself, so
    its Dice Loss has ``activate=False``. Here the loss takes logits, and is built with ``activate=True``: the same
    loss. The default is that of ``DynamicMaskHead``, Dice Loss.
    """

    def __init__(self, *args: Any, loss_mask: dict | None = None, **kwargs: Any) -> None:
        loss_mask = dict(loss_mask or dict(type='DiceLoss', loss_weight=8.0))
        if 'activate' in loss_mask:
            loss_mask['activate'] = True
        super().__init__(*args, loss_mask=loss_mask, **kwargs)


class _LoweredAssigner(BaseAssigner):
    """An assigner that reads lowered logits, because its costs read them as probabilities.

    It cannot compare predictions that are not finite. An image with such predictions is matched as if it had no
    objects, and the losses become NaN.
    """

    def __init__(self, assigner: BaseAssigner, shift: float) -> None:
        self.assigner = assigner
        self.shift = shift

    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, *args: Any, **kwargs: Any
    ) -> AssignResult:
        lowered = pred_instances.new()
        lowered.scores = at_least_float32(lowered.scores) + self.shift  # in float16, a cost can be infinite
        lowered.bboxes = at_least_float32(lowered.bboxes)
        objects = objects_to_match(gt_instances, lowered.scores, lowered.bboxes)
        return self.assigner.assign(lowered, objects, *args, **kwargs)


class _StagesOfQueries(SparseRoIHead):
    """``SparseRoIHead`` whose box losses are computed after the last stage, for the queries of all stages together."""

    def loss(self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch_data_samples: list) -> dict:
        losses = super().loss(x, rpn_results_list, batch_data_samples)
        sets = [
            losses.pop(f's{stage}.queries')._replace(prefix=f's{stage}.', weight=weight)
            for stage, weight in enumerate(self.stage_loss_weights)
        ]
        metas = [sample.metainfo for sample in batch_data_samples]
        return {**self.bbox_head[-1].query_losses(sets, metas), **losses}


@ranking_head(SparseRoIHead, role=Role.ROI, rules=(*INNER_HEADS, matching_costs()))
@MODELS.register_module()
class RankBasedSparseRoIHead(RankingRoIHeadMixin, _StagesOfQueries):
    """``SparseRoIHead`` for ranking losses; for Sparse R-CNN and QueryInst.

    Each stage is a set of queries, which is ranked by itself over all images. It balances its L1 and GIoU losses and
    its mask loss separately. On an accelerator, all stages are ranked in one call
    (:class:`~bucketed_losses.mmdet.models.dense_heads.query_ranking.QueryLossesMixin`). ``s0.loss_rank`` and
    ``s0.loss_sort`` are logged in place of ``s0.loss_cls``.

    Arguments are those of :class:`RankingRoIHeadMixin`. The box heads are :class:`RankBasedDIIHead`, and their
    ``score_prior`` is the probability that an initial logit has in the costs of matching.

    Raises:
        ValueError: As :class:`RankingRoIHeadMixin`; the losses of the stages differ; or matching reads a softmax.
    """

    BOX_HEADS = RankBasedDIIHead
    EXAMPLES = ('RankBasedDIIHead', 'RankBasedDynamicMaskHead')
    MASK_FIELDS = (*RankingRoIHeadMixin.MASK_FIELDS, 'pos_inds')
    bbox_assigner: list[BaseAssigner]

    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        """Build the box heads; arguments as for :class:`mmdet.models.CascadeRoIHead`."""
        super().init_bbox_head(bbox_roi_extractor, bbox_head)
        for name in ('loss_cls', 'loss_bbox', 'loss_iou'):
            losses = [head.get(name) for head in bbox_head] if isinstance(bbox_head, list) else []
            if any(loss != losses[0] for loss in losses):
                raise ValueError(
                    f'{type(self).__name__}: {name} must be the same in all stages, which are ranked in one call, got '
                    f'{losses}; use stage_loss_weights to weight stages'
                )

    def init_assigner_sampler(self) -> None:
        super().init_assigner_sampler()
        for assigner in self.bbox_assigner:
            check_sigmoid_costs(self, assigner)
        # If a box head has the wrong class, the error follows after this method.
        shifts = [getattr(head, 'score_shift', 0.0) for head in self.bbox_head]
        self.bbox_assigner = [
            _LoweredAssigner(assigner, shift) for assigner, shift in zip(self.bbox_assigner, shifts, strict=False)
        ]

    def bbox_loss(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        results_list: InstanceList,
        object_feats: Tensor,
        batch_img_metas: list[dict],
        batch_gt_instances: InstanceList,
    ) -> dict:
        """The queries of a stage; arguments as for :class:`mmdet.models.SparseRoIHead`."""
        results = super().bbox_loss(stage, x, results_list, object_feats, batch_img_metas, batch_gt_instances)
        for image in results['results_list']:
            # On a CPU, MMCV's RoIAlign raises an error for them in the next stage. The losses of this stage are NaN.
            not_finite = ~image.bboxes.isfinite().all(dim=1, keepdim=True)
            image.bboxes = image.bboxes.masked_fill(not_finite, 0.0)
        return results

    def mask_loss(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        bbox_results: dict,
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: Any,
    ) -> dict:
        """Loss of the masks of a stage; arguments as for :class:`mmdet.models.SparseRoIHead`."""
        results = bbox_results['sampling_results']
        for result, logits in zip(results, bbox_results['detached_cls_scores'], strict=True):
            weights = box_weights(logits, self.bbox_head[stage].loss_cls.equal_box_weights)
            result.pos_scores = weights.index_select(0, result.pos_inds)
        positives = {'sampling_results': self.mask_positives(results)}
        return super().mask_loss(stage, x, {**bbox_results, **positives}, batch_gt_instances, rcnn_train_cfg)
