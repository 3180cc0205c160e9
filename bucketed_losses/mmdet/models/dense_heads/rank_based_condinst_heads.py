"""CondInst and BoxInst trained with a ranking loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmdet.models.dense_heads import BoxInstBboxHead, BoxInstMaskHead, CondInstBboxHead, CondInstMaskHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses.box_weighting import at_least_float32
from ..recipes import Note, Part, Role, Rule, ranking_head
from ..roi_heads.rank_based_mask_head import MASK_HEAD
from ..rules import POINT_HEAD
from .instance_masks import MASKS_OF_RANKED_BOXES, PositivesForMasksMixin, RankedMasksMixin
from .rank_based_fcos_head import RankBasedFCOSHead


@ranking_head(CondInstBboxHead, role=Role.DENSE, rules=POINT_HEAD, unused=['loss_centerness', 'centerness_on_reg'])
@MODELS.register_module()
class RankBasedCondInstBboxHead(PositivesForMasksMixin, RankBasedFCOSHead, CondInstBboxHead):
    """``CondInstBboxHead`` trained with a ranking loss, without centerness; as :class:`RankBasedFCOSHead`.

    It passes the positives to the mask head as ``CondInstBboxHead`` does, with a centerness of 1/2 for all.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_centerness: Not used; accepted so that a config may inherit one written for ``CondInstBboxHead``.
        kwargs: As for :class:`mmdet.models.CondInstBboxHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor], None, list[Tensor]]:  # type: ignore[override]
        """Logits and distances as :class:`RankBasedFCOSHead`; None for centerness; parameters of the mask head."""
        cls_scores, bbox_preds, _, param_preds = super(RankBasedFCOSHead, self).forward(x)
        return cls_scores, bbox_preds, None, param_preds

    def get_targets(self, points: list[Tensor], batch_gt_instances: InstanceList) -> tuple:
        """Targets as of ``CondInstBboxHead``, of which it keeps the positives."""
        targets = super().get_targets(points, batch_gt_instances)
        self._raw_positive_infos.update(pos_inds_list=targets[2], pos_gt_inds_list=targets[3])
        return targets

    def loss_by_feat(  # type: ignore[override]
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: None,
        param_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.CondInstBboxHead.loss_by_feat`."""
        losses = super().loss_by_feat(cls_scores, bbox_preds, batch_gt_instances, batch_img_metas)
        sizes = [level.shape[-2:] for level in cls_scores]
        points = self.prior_generator.grid_priors(sizes, bbox_preds[0].dtype, bbox_preds[0].device, with_stride=True)
        return self.kept_for_masks(
            losses,
            cls_scores,
            param_preds,
            # The mask head may train on the positives with the highest products of score and centerness.
            centernesses=[level.new_zeros(len(level), 1, *level.shape[2:]) for level in cls_scores],
            param_preds=param_preds,
            all_level_points=[level[:, :2] for level in points],
            all_level_strides=[level[:, 2] for level in points],
        )


@ranking_head(CondInstMaskHead, role=Role.ONE_STAGE_MASK, rules=MASK_HEAD, reason=MASKS_OF_RANKED_BOXES)
@MODELS.register_module()
class RankBasedCondInstMaskHead(RankedMasksMixin, CondInstMaskHead):
    """``CondInstMaskHead`` whose loss weights each positive by its score and is balanced with the ranking loss.

    The box head must be :class:`RankBasedCondInstBboxHead`. Arguments are those of MMDetection's head.
    """

    def loss_by_feat(
        self,
        mask_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        positive_infos: InstanceList,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """``loss_mask``; arguments as for :meth:`mmdet.models.CondInstMaskHead.loss_by_feat`."""
        losses, trained = [], []
        for masks, objects, info in zip(mask_preds, batch_gt_instances, positive_infos, strict=True):
            # MMDetection's method selects some of the masks; given their indices instead, it returns those selected.
            indices = torch.arange(len(masks), device=masks.device)
            selected, targets, num_positives = self._get_targets_single(indices, objects, info)
            if num_positives:
                losses.append(self.loss_mask(at_least_float32(masks[selected]), targets, reduction_override='none'))
            trained.append(selected)
        loss = self.mean_mask_loss(losses, trained, positive_infos)
        return self.connected(self.balanced({'loss_mask': loss}, positive_infos), positive_infos)


@ranking_head(BoxInstBboxHead, role=Role.DENSE, rules=POINT_HEAD, unused=['loss_centerness', 'centerness_on_reg'])
@MODELS.register_module()
class RankBasedBoxInstBboxHead(RankBasedCondInstBboxHead, BoxInstBboxHead):
    """``BoxInstBboxHead`` trained with a ranking loss, without centerness; as :class:`RankBasedCondInstBboxHead`."""


def _equal_positives() -> Rule:
    """A note on how the losses of BoxInst's masks are weighted."""

    def apply(part: Part) -> Iterator[Note]:
        scaled = 'both mask losses are scaled to the ranking loss together; ' if part.scales_other_losses else ''
        yield Note(
            f'{part.path}: {scaled}masks are not weighted by scores, because the pairwise loss is a mean over pixels '
            'of all objects'
        )

    return Rule((), apply)


@ranking_head(BoxInstMaskHead, role=Role.ONE_STAGE_MASK, rules=(_equal_positives(),), reason=MASKS_OF_RANKED_BOXES)
@MODELS.register_module()
class RankBasedBoxInstMaskHead(RankedMasksMixin, BoxInstMaskHead):
    """``BoxInstMaskHead`` whose losses are balanced with the ranking loss.

    The losses of projections and of pairs of pixels are scaled together, so that the warm-up of the latter stays. They
    are not weighted by scores: the loss of pairs is a mean over pixels of all objects. Both are means over the objects
    of a process, also with ``scope='global'``.

    The box head must be :class:`RankBasedBoxInstBboxHead`. Arguments are those of MMDetection's head.
    """

    def loss_by_feat(
        self,
        mask_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        positive_infos: InstanceList,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Both losses; arguments as for :meth:`mmdet.models.BoxInstMaskHead.loss_by_feat`."""
        masks = [at_least_float32(image) for image in mask_preds]
        losses = super().loss_by_feat(masks, batch_gt_instances, batch_img_metas, positive_infos, **kwargs)
        return self.connected(self.balanced(losses, positive_infos), positive_infos)
