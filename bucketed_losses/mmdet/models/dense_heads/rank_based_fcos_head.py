"""FCOS trained with a ranking loss."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor, nn

from ..recipes import Role, ranking_head
from ..rules import POINT_HEAD
from .ranking_mixin import RankingHeadMixin, flatten_maps


@ranking_head(FCOSHead, role=Role.DENSE, rules=POINT_HEAD, unused=['loss_centerness', 'centerness_on_reg'])
@MODELS.register_module()
class RankBasedFCOSHead(RankingHeadMixin, FCOSHead):
    """``FCOSHead`` trained with a ranking loss, without centerness.

    All levels and images are ranked together. The target of a positive is the IoU of its box.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_centerness: Not used; accepted so that a config may inherit one written for ``FCOSHead``.
        kwargs: As for :class:`mmdet.models.FCOSHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    classifiers = ('conv_cls',)

    def __init__(self, *args: Any, loss_cls: dict, loss_centerness: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, loss_cls=loss_cls, **kwargs)
        del self.loss_centerness

    def _init_layers(self) -> None:
        super()._init_layers()
        # FCOSHead calls this layer. It must not have parameters, because they would get no gradient.
        self.conv_centerness = nn.Identity()

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits ``(N, num_classes, H, W)`` and distances to the sides ``(N, 4, H, W)`` of every level."""
        cls_scores, bbox_preds, _ = super().forward(x)
        return cls_scores, bbox_preds

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.FCOSHead.loss_by_feat`, without centerness."""
        sizes = [level.shape[-2:] for level in cls_scores]
        points = self.prior_generator.grid_priors(sizes, dtype=bbox_preds[0].dtype, device=bbox_preds[0].device)
        labels, distances = (torch.cat(levels) for levels in self.get_targets(points, batch_gt_instances)[:2])
        num_images = len(batch_img_metas)
        flat_points = torch.cat([level.repeat(num_images, 1) for level in points])
        return self.ranking_losses(
            flatten_maps(cls_scores, self.cls_out_channels),
            flatten_maps(bbox_preds, 4),
            flat_points,
            labels,
            torch.ones_like(labels),
            # FCOS measures distances in strides if it normalises them. The unit does not change the IoU of two boxes
            # around the same point.
            self.bbox_coder.decode(flat_points, distances),
            self.image_rows([len(level) for level in points], num_images, labels.device),
        )
