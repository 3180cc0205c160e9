"""RTMDet-Ins, instance segmentation by RTMDet, trained with a ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import RTMDetInsHead, RTMDetInsSepBNHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses.box_weighting import at_least_float32, box_weights, mean_by_score, self_balance
from ..recipes import Role, ranking_head
from .instance_masks import by_image
from .rank_based_rtmdet_head import RTMDET_RULES, RankingRTMDetHeadMixin
from .ranking_mixin import maps_by_image
from .score_assignment import AssignedPredictions

if TYPE_CHECKING:
    from mmdet.models.dense_heads import RTMDetInsHead as _Host
else:
    _Host = object


class RankingRTMDetInsHeadMixin(RankingRTMDetHeadMixin, _Host):
    """A mixin for ``RTMDetInsHead`` and its subclasses: a ranking loss in place of Quality Focal Loss.

    Boxes are ranked and trained as by :class:`RankBasedRTMDetHead`. The mask loss is the mean of the losses of the
    positives' masks, weighted by their scores as the box loss is. If the ranking loss balances itself, the mask loss is
    scaled to it on its own, as that of Mask R-CNN is; otherwise it keeps the weight of ``loss_mask``.

    Args:
        loss_mask: Config of a loss of mask logits ``(num_pos, h, w)``, with a value for each mask or for each pixel
            (the loss of a mask is then their mean); by default ``DiceLoss`` with a weight of 2, as in MMDetection.
        args, kwargs: As for the head.
    """

    def __init__(self, *args: Any, loss_mask: dict | None = None, **kwargs: Any) -> None:
        loss_mask = loss_mask or dict(type='DiceLoss', loss_weight=2.0, eps=5e-6)
        super().__init__(*args, loss_mask={**loss_mask, 'reduction': 'none'}, **kwargs)

    def loss_by_feat(  # type: ignore[override]
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        kernel_preds: list[Tensor],
        mask_feat: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.RTMDetInsHead.loss_by_feat`.

        Returns:
            The losses of :meth:`ranking_losses` and ``loss_mask``. If there is no positive, all are 0 and connected to
            the predictions, except with DR Loss or a memory.
        """
        # The assigner, which reads the centres of masks, and the mask loss need tensors, the loss those of one size.
        masks = [
            image.masks.pad(meta['batch_input_shape']).to_tensor(torch.bool, mask_feat.device)
            for image, meta in zip(batch_gt_instances, batch_img_metas, strict=True)
        ]
        objects = [
            image.new(**{**dict(image.items()), 'masks': own})
            for image, own in zip(batch_gt_instances, masks, strict=True)
        ]
        assigned = self.assign(cls_scores, bbox_preds, objects, batch_img_metas, batch_gt_instances_ignore)
        losses = self.assigned_losses(assigned, len(batch_img_metas))
        loss_mask = self.score_weighted_mask_loss(kernel_preds, mask_feat, assigned, objects)
        if self.loss_cls.self_balancing:
            ranking = [losses[name] for name in self.loss_cls.LOG_NAMES]
            loss_mask = self_balance(loss_mask, ranking, self.loss_cls.shared)
        return {**losses, 'loss_mask': loss_mask}

    def score_weighted_mask_loss(
        self,
        kernel_preds: list[Tensor],
        mask_feat: Tensor,
        assigned: AssignedPredictions,
        batch_gt_instances: InstanceList,
    ) -> Tensor:
        """The mean loss of the positives' masks, weighted by their scores.

        Args:
            kernel_preds: Parameters ``(N, num_gen_params, H, W)`` of the dynamic convolutions of every level.
            mask_feat: ``(N, num_prototypes, H, W)``.
            assigned: The predictions with their targets.
            batch_gt_instances: The objects of each image, with bool ``masks (num_objects, h, w)``.

        Returns:
            A scalar; 0, connected to the kernels and to the features, if there is no positive.
        """
        num_images = len(mask_feat)
        labels, logits = (
            by_image(part, assigned.level_sizes, num_images) for part in (assigned.labels, assigned.logits)
        )
        kernels = maps_by_image(kernel_preds, self.num_gen_params)
        for sample, image_labels in zip(assigned.samples, labels, strict=True):
            # The sampler's indices do not count points in the padding of an image; those of the mask loss do.
            sample.pos_inds = (image_labels < self.num_classes).nonzero().squeeze(1)
        losses = self.loss_mask_by_feat(mask_feat, kernels, assigned.samples, batch_gt_instances)
        positive = torch.cat([image[sample.pos_inds] for image, sample in zip(logits, assigned.samples, strict=True)])
        weights = box_weights(positive, self.loss_cls.equal_box_weights)
        if len(positive) == 0:
            losses = losses + kernels.sum() * 0
        elif losses.dim() > 1:
            losses = losses.flatten(1).mean(dim=1)
        return mean_by_score(losses, weights, self.loss_cls.shared)

    def _mask_predict_by_feat_single(self, mask_feat: Tensor, kernels: Tensor, priors: Tensor) -> Tensor:
        return at_least_float32(super()._mask_predict_by_feat_single(mask_feat, kernels, priors))


@ranking_head(RTMDetInsHead, role=Role.DENSE, rules=RTMDET_RULES)
@MODELS.register_module()
class RankBasedRTMDetInsHead(RankingRTMDetInsHeadMixin, RTMDetInsHead):
    """``RTMDetInsHead`` trained with a ranking loss, see :class:`RankingRTMDetInsHeadMixin`."""


@ranking_head(RTMDetInsSepBNHead, role=Role.DENSE, rules=RTMDET_RULES)
@MODELS.register_module()
class RankBasedRTMDetInsSepBNHead(RankingRTMDetInsHeadMixin, RTMDetInsSepBNHead):
    """``RTMDetInsSepBNHead`` trained with a ranking loss, see :class:`RankingRTMDetInsHeadMixin`."""
