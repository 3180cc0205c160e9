"""FoveaBox trained with a ranking loss."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import FoveaHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..recipes import Role, ranking_head
from ..rules import POINT_HEAD
from .float32_deform_conv import use_float32_deform_convs
from .ranking_mixin import RankingHeadMixin, flatten_maps


@ranking_head(FoveaHead, role=Role.DENSE, rules=POINT_HEAD)
@MODELS.register_module()
class RankBasedFoveaHead(RankingHeadMixin, FoveaHead):
    """``FoveaHead`` trained with a ranking loss.

    All levels and images are ranked together. The target of a positive is the IoU of its box.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_bbox: Config of a loss on decoded boxes, e.g. ``GIoULoss``.
        kwargs: As for :class:`mmdet.models.FoveaHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    classifiers = ('conv_cls',)

    def _init_layers(self) -> None:
        super()._init_layers()
        use_float32_deform_convs(self)

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        """Boxes ``(n, 4)`` of log distances ``(n, 4)``, at priors ``(n, 3)``: x, y and the base edge of the level."""
        points, edges = priors[:, :2], priors[:, 2:]
        distances = predictions.exp() * edges
        return torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.FoveaHead.loss_by_feat`."""
        num_images = len(batch_img_metas)
        sizes = [level.shape[-2:] for level in cls_scores]
        points = self.prior_generator.grid_priors(sizes, dtype=torch.float32, device=bbox_preds[0].device)
        labels, log_distances = self.get_targets(batch_gt_instances, sizes, points)
        priors = torch.cat(
            [
                torch.cat([level, level.new_full((len(level), 1), edge)], dim=1).repeat(num_images, 1)
                for level, edge in zip(points, self.base_edge_list, strict=True)
            ]
        )
        return self.ranking_losses(
            flatten_maps(cls_scores, self.cls_out_channels),
            flatten_maps(bbox_preds, 4),
            priors,
            labels,
            torch.ones_like(labels),
            self.decode(priors, log_distances),
            self.image_rows([len(level) for level in points], num_images, labels.device),
        )
