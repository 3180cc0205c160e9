"""SOLO and SOLOv2 trained with a ranking loss."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import DecoupledSOLOHead, DecoupledSOLOLightHead, SOLOHead, SOLOV2Head
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.functional import conv2d

from ..losses.box_weighting import at_least_float32
from ..recipes import Role, ranking_head
from ..rules import ranking_loss
from .positive_masks import PositiveMasks, mask_ious
from .ranking_mixin import RankingHeadMixin, flatten_maps

if TYPE_CHECKING:
    from mmdet.models.dense_heads import SOLOHead as _Host
else:
    _Host = object

_RULES = (ranking_loss(),)
_REASON = 'ranks all places of a batch, labelled by the IoU of their masks'
_NORMAL = dict(type='Normal', layer='Conv2d', std=0.01)


def _mask_prior(name: str) -> dict:
    """The initialisation of a mask branch, as in MMDetection: most pixels do not belong to an object."""
    return dict(type='Normal', std=0.01, bias_prob=0.01, override=dict(name=name))


class RankingSOLOHeadMixin(RankingHeadMixin, _Host):
    """A mixin for ``SOLOHead`` and its subclasses: a ranking loss of the category branch.

    The cells of all levels and images are ranked together. The target of a positive is the IoU of its mask. The mask
    loss is weighted by the highest class probability of its cell and, for a loss that balances itself, scaled to the
    ranking loss, as a box loss is. If a cell is assigned to several objects, the last of them is ranked. Detections are
    scored by the class and by the mean probability of their pixels, as in MMDetection; the second factor is not part of
    the training. MMDetection computes the mask of each pair of a cell and a class above ``score_thr``, and takes the
    best ``nms_pre`` afterwards. Nearly all ranking scores are above it, so these heads compute four times ``nms_pre``
    masks of an image at most: those of the highest scores.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        args, kwargs: As for the head. ``init_cfg`` defaults to a classifier bias of 0.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss.
    """

    classifiers = ('conv_cls',)
    box_losses = ()

    def solo_losses(
        self,
        cls_preds: list[Tensor],
        labels: list[list[Tensor]],
        masks: list[Tensor],
        mask_targets: list[Tensor],
        rows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_preds: Class logits ``(num_imgs, num_classes, num_grid, num_grid)`` of each level.
            labels: ``(num_grid, num_grid)`` labels of each image and level, ``num_classes`` for background.
            masks: ``(n, h, w)`` predicted masks of each level, as ``loss_mask`` takes them.
            mask_targets: ``(n, h, w)`` binary targets.
            rows: ``(num_masks,)`` the cell of each mask, in the order of :func:`flatten_maps`; None if the masks are
                those of the positive cells in this order.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses) and ``loss_mask``. If there is no positive, all are 0 and connected
            to the predictions, except with DR Loss or a memory.
        """
        flat_labels = torch.cat([level.flatten() for level in by_level(labels)])
        logits = flatten_maps(cls_preds, self.cls_out_channels)
        positive = (flat_labels < self.num_classes).nonzero().squeeze(1)
        rows = positive if rows is None else rows
        masks = [at_least_float32(level) for level in masks]
        ious = [mask_ious(self.probabilities(m.detach()), t) for m, t in zip(masks, mask_targets, strict=True)]
        # The last mask of each cell: its object has given the cell its label.
        order = torch.arange(len(rows), device=rows.device)
        last = order.new_full((len(logits),), -1).scatter_reduce(0, rows, order, 'amax')
        positive_masks = PositiveMasks(
            torch.cat(ious),
            torch.cat([self.losses_of_masks(m, t) for m, t in zip(masks, mask_targets, strict=True)]),
            logits[rows],
            last[positive],
            self.loss_mask.loss_weight,
        )
        losses = self.loss_cls.losses_with_boxes(
            logits,
            flat_labels,
            torch.ones_like(flat_labels),
            positive,
            positive_masks,
            self.image_rows([level[0].numel() for level in zip(*labels, strict=True)], len(labels), rows.device),
        )
        losses['loss_mask'] = losses.pop('loss_bbox')
        return losses

    def _predict_by_feat_single(self, *args: Any, **kwargs: Any) -> InstanceData:
        predict = super()._predict_by_feat_single
        given = signature(predict).bind(*args, **kwargs)
        limit = 4 * (given.arguments.get('cfg') or self.test_cfg).nms_pre
        scores = given.arguments['cls_scores']
        if 0 <= limit < scores.numel():
            last = scores.flatten().topk(limit).values[-1]
            given.arguments['cls_scores'] = scores.where(scores >= last, scores.new_zeros(()))
        return predict(*given.args, **given.kwargs)

    def losses_of_masks(self, masks: Tensor, targets: Tensor) -> Tensor:
        """``(n,)`` mask losses of masks and binary targets ``(n, h, w)``; connected to the masks if there are none."""
        if len(masks) == 0:
            return masks.flatten(1).sum(dim=1)
        return self.loss_mask(masks, targets, reduction_override='none')

    def probabilities(self, masks: Tensor) -> Tensor:
        """The probabilities of the pixels of predicted masks."""
        return masks.sigmoid()


@ranking_head(SOLOHead, role=Role.INSTANCES, rules=_RULES, reason=_REASON)
@MODELS.register_module()
class RankBasedSOLOHead(RankingSOLOHeadMixin, SOLOHead):
    """``SOLOHead`` trained with a ranking loss, see :class:`RankingSOLOHeadMixin`."""

    default_init = [_NORMAL, _mask_prior('conv_mask_list')]

    def loss_by_feat(
        self,
        mlvl_mask_preds: list[Tensor],
        mlvl_cls_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.SOLOHead.loss_by_feat`."""
        sizes = [level.shape[-2:] for level in mlvl_mask_preds]
        targets, labels, flags = multi_apply(self._get_targets_single, batch_gt_instances, featmap_sizes=sizes)
        masks = [
            torch.cat([image[own] for image, own in zip(level, level_flags, strict=True)])
            for level, level_flags in zip(mlvl_mask_preds, zip(*flags, strict=True), strict=True)
        ]
        return self.solo_losses(mlvl_cls_preds, labels, masks, by_level(targets))


class RankingDecoupledSOLOHeadMixin(RankingSOLOHeadMixin):
    """A mixin for ``DecoupledSOLOHead``: a mask is the product of the probabilities of its column and of its row."""

    default_init = [_NORMAL, _mask_prior('conv_mask_list_x'), _mask_prior('conv_mask_list_y')]

    def loss_by_feat(
        self,
        mlvl_mask_preds_x: list[Tensor],
        mlvl_mask_preds_y: list[Tensor],
        mlvl_cls_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.DecoupledSOLOHead.loss_by_feat`."""
        sizes = [level.shape[-2:] for level in mlvl_mask_preds_x]
        targets, labels, cells = multi_apply(self._get_targets_single, batch_gt_instances, featmap_sizes=sizes)
        masks = [
            torch.cat(
                [
                    at_least_float32(image_y[own[:, 0]]).sigmoid() * at_least_float32(image_x[own[:, 1]]).sigmoid()
                    for image_x, image_y, own in zip(*level, strict=True)
                ]
            )
            for level in zip(mlvl_mask_preds_x, mlvl_mask_preds_y, zip(*cells, strict=True), strict=True)
        ]
        return self.solo_losses(mlvl_cls_preds, labels, masks, by_level(targets))

    def probabilities(self, masks: Tensor) -> Tensor:
        """The masks themselves: products of probabilities."""
        return masks


@ranking_head(DecoupledSOLOHead, role=Role.INSTANCES, rules=_RULES, reason=_REASON)
@MODELS.register_module()
class RankBasedDecoupledSOLOHead(RankingDecoupledSOLOHeadMixin, DecoupledSOLOHead):
    """``DecoupledSOLOHead`` trained with a ranking loss, see :class:`RankingSOLOHeadMixin`."""


@ranking_head(DecoupledSOLOLightHead, role=Role.INSTANCES, rules=_RULES, reason=_REASON)
@MODELS.register_module()
class RankBasedDecoupledSOLOLightHead(RankingDecoupledSOLOHeadMixin, DecoupledSOLOLightHead):
    """``DecoupledSOLOLightHead`` trained with a ranking loss, see :class:`RankingSOLOHeadMixin`."""


@ranking_head(SOLOV2Head, role=Role.INSTANCES, rules=_RULES, reason=_REASON)
@MODELS.register_module()
class RankBasedSOLOV2Head(RankingSOLOHeadMixin, SOLOV2Head):
    """``SOLOV2Head`` trained with a ranking loss, see :class:`RankingSOLOHeadMixin`."""

    def loss_by_feat(
        self,
        mlvl_kernel_preds: list[Tensor],
        mlvl_cls_preds: list[Tensor],
        mask_feats: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.SOLOV2Head.loss_by_feat`."""
        targets, labels, _, cells = multi_apply(
            self._get_targets_single, batch_gt_instances, featmap_sizes=mask_feats.shape[-2:]
        )
        masks, rows, first = [], [], 0
        for kernels, level_cells in zip(mlvl_kernel_preds, zip(*cells, strict=True), strict=True):
            level_masks = []
            for image_kernels, features, own in zip(kernels.flatten(2), mask_feats, level_cells, strict=True):
                indices = torch.as_tensor(own, dtype=torch.long, device=mask_feats.device)
                level_masks.append(self.dynamic_masks(image_kernels[:, indices], features))
                rows.append(first + indices)
                first += image_kernels.size(1)
            masks.append(torch.cat(level_masks))
        return self.solo_losses(mlvl_cls_preds, labels, masks, by_level(targets), torch.cat(rows))

    def dynamic_masks(self, kernels: Tensor, features: Tensor) -> Tensor:
        """``(n, h, w)`` mask logits of kernels ``(size, n)`` on the features ``(channels, h, w)`` of an image."""
        height, width = features.shape[-2:]
        if kernels.size(1) == 0:  # no masks, but connected
            return features.new_zeros(0, height, width) + (features.sum() + kernels.sum()) * 0
        size = self.dynamic_conv_size
        return conv2d(features.unsqueeze(0), kernels.t().reshape(-1, len(features), size, size)).view(-1, height, width)


def by_level(images: list[list[Tensor]]) -> list[Tensor]:
    """Tensors of each image and level, joined over images."""
    return [torch.cat(level) for level in zip(*images, strict=True)]
