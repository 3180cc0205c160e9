"""YOLACT trained with a ranking loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmdet.models.dense_heads import YOLACTHead, YOLACTProtonet
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from ..losses.box_weighting import at_least_float32
from ..recipes import Note, Part, Role, Rule, ranking_head
from ..rules import ANCHOR_HEAD, without_hard_negatives
from .instance_masks import MASKS_OF_RANKED_BOXES, PositivesForMasksMixin, RankedMasksMixin
from .ranking_mixin import RankingDenseHeadMixin


@ranking_head(YOLACTHead, role=Role.DENSE, rules=(*ANCHOR_HEAD, without_hard_negatives()), unused=['use_ohem'])
@MODELS.register_module()
class RankBasedYOLACTHead(PositivesForMasksMixin, RankingDenseHeadMixin, YOLACTHead):
    """``YOLACTHead`` trained with a ranking loss.

    All levels and images are ranked together, without hard negative mining: ``neg_pos_ratio`` of ``train_cfg`` has no
    effect. Each class has a sigmoid, and there is no background class. The target of a positive is the IoU of its box.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_bbox: Config of a loss on decoded boxes, e.g. ``GIoULoss``.
        use_ohem: Not used; accepted so that a config may inherit one written for ``YOLACTHead``.
        kwargs: As for :class:`mmdet.models.YOLACTHead`. ``init_cfg`` defaults to its own. Biases start at 0.
    """

    classifiers = ('conv_cls',)
    default_init = dict(type='Xavier', layer='Conv2d', distribution='uniform', bias=0)

    def loss_by_feat(  # type: ignore[override]
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        coeff_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.YOLACTHead.loss_by_feat`."""
        losses = super().loss_by_feat(
            cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        return self.kept_for_masks(losses, cls_scores, coeff_preds, coeff_preds=coeff_preds)

    def level_targets(self, *args: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        labels, label_weights, bbox_targets = super().level_targets(*args)
        samples = self._raw_positive_infos['sampling_results']
        for sample, image_labels in zip(samples, torch.cat(labels, dim=1), strict=True):
            # The sampler's indices do not count anchors in the padding of an image; those of the masks do.
            sample.pos_inds = (image_labels < self.num_classes).nonzero().squeeze(1)
        return labels, label_weights, bbox_targets


def _published_masks() -> Rule:
    """Notes on the mask losses of the published RS-YOLACT; those of the config are not changed."""

    def apply(part: Part) -> Iterator[Note]:
        yield Note(
            f'{part.path}: the published RS-YOLACT trains masks with Dice Loss; this head keeps the cross-entropy, '
            'which it weights by scores and balances as published'
        )
        if part.config.get('with_seg_branch', True):
            yield Note(
                f'{part.path}.loss_segm keeps its weight, because it does not learn from ranked boxes; the published '
                'RS-YOLACT has no such branch (with_seg_branch=False)'
            )

    return Rule((), apply)


@ranking_head(YOLACTProtonet, role=Role.ONE_STAGE_MASK, rules=(_published_masks(),), reason=MASKS_OF_RANKED_BOXES)
@MODELS.register_module()
class RankBasedYOLACTProtonet(RankedMasksMixin, YOLACTProtonet):
    """``YOLACTProtonet`` whose mask loss weights each positive by its score and is balanced with the ranking loss.

    The loss of a mask is its cross-entropy inside the padded box of its object, divided by the area of the box, as in
    ``YOLACTProtonet``. The loss of the semantic branch is not changed.

    The box head must be :class:`RankBasedYOLACTHead`. Arguments are those of MMDetection's head.
    """

    def forward(self, x: tuple[Tensor, ...], positive_infos: InstanceList) -> tuple[list[Tensor], Tensor | None]:
        """Masks and, in training, the semantic map, as of the stock head.

        Prototypes are combined in float32: in float16, the sigmoid of a logit of 9 is 1, and its gradient NaN.
        """
        segm = self.segm_branch(x[0]) if self.training and self.segm_branch is not None else None
        prototypes = at_least_float32(self.protonet(x[0])).permute(0, 2, 3, 1).contiguous()
        with torch.autocast(prototypes.device.type, enabled=False):
            masks = [
                (image @ at_least_float32(info.coeffs).t()).sigmoid()
                for image, info in zip(prototypes, positive_infos, strict=True)
            ]
        return masks, segm

    def loss_by_feat(
        self,
        mask_preds: list[Tensor],
        segm_preds: Tensor | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        positive_infos: InstanceList,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """``loss_mask`` and, with a semantic branch, ``loss_segm``.

        Arguments are those of :meth:`mmdet.models.YOLACTProtonet.loss_by_feat`.
        """
        cropped = self.crop_mask_preds(mask_preds, batch_img_metas, positive_infos)
        losses, trained, segm_losses = [], [], []
        for index, (masks, objects, info) in enumerate(zip(cropped, batch_gt_instances, positive_infos, strict=True)):
            segm = None if segm_preds is None else at_least_float32(segm_preds[index])
            # MMDetection's method selects some of the masks; given their indices instead, it returns those selected.
            indices = torch.arange(len(masks), device=masks.device).view(-1, 1, 1).expand_as(masks)
            selected, targets, segm_targets, num_positives, boxes = self._get_targets_single(
                indices, segm, objects, info
            )
            if segm is not None:
                pixels = len(cropped) * segm.shape[1] * segm.shape[2]
                no_objects = segm_targets is None
                segm_losses.append(
                    segm.sum() * 0 if no_objects else self.loss_segm(segm, segm_targets, avg_factor=pixels)
                )
            rows = selected[:, 0, 0]
            trained.append(rows)
            if num_positives:
                height, width = batch_img_metas[index]['img_shape'][:2]
                areas = (boxes[:, 2] - boxes[:, 0]) / width * (boxes[:, 3] - boxes[:, 1]) / height
                losses.append(self.loss_mask_weight * _cross_entropies(masks[rows], targets) / areas)
        loss = self.mean_mask_loss(losses, trained, positive_infos)
        result = self.balanced({'loss_mask': loss}, positive_infos)
        if segm_losses:
            result['loss_segm'] = torch.stack(segm_losses).sum()
        return self.connected(result, positive_infos)


def _cross_entropies(masks: Tensor, targets: Tensor) -> Tensor:
    """``(n,)`` mean cross-entropies of probabilities and binary targets ``(n, h, w)``; NaN for a mask with a NaN."""
    with torch.autocast(masks.device.type, enabled=False):  # it refuses this function, because of float16
        # The function raises an error for NaN, before InvalidLossHook can report it.
        losses = binary_cross_entropy(masks.nan_to_num().clamp(0, 1), targets, reduction='none')
    return (losses + 0 * masks.detach()).mean(dim=(1, 2))
