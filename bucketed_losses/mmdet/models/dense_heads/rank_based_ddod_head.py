"""DDOD trained with a ranking loss; it keeps an assignment of its own for the boxes."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import DDODHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor, nn

from ..losses import PositiveBoxes, SeparateBoxes, highest_probability
from ..losses.box_weighting import at_least_float32, nan_if_not_finite
from ..recipes import Role, ranking_head
from ..rules import ANCHOR_HEAD
from .ranking_mixin import RankingDenseHeadMixin, flatten_maps, flatten_targets
from .score_assignment import ScorePriorMixin


@ranking_head(DDODHead, role=Role.DENSE, rules=ANCHOR_HEAD, unused=['loss_iou'])
@MODELS.register_module()
class RankBasedDDODHead(ScorePriorMixin, RankingDenseHeadMixin, DDODHead):
    """``DDODHead`` trained with a ranking loss, without its IoU branch.

    All levels and images are ranked together. The positives are those of the classification assigner; the target of a
    positive is the IoU of its box. The box loss is computed at the positives of the box assigner, as in ``DDODHead``.
    It is weighted by scores, and by the factors of the levels: 1 for the level with the most positives so far, 2 for
    the level with the fewest. A ranking loss has no value per level, so it has no such factors. The assigners read
    scores as probabilities, so they get shifted logits. aLRP Loss computes its box loss at the ranked positives.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        score_prior: As for :class:`ScorePriorMixin`.
        loss_iou: Not used; accepted so that a config may inherit one written for ``DDODHead``.
        kwargs: As for :class:`mmdet.models.DDODHead`. The classifier starts with a bias of 0.
    """

    classifiers = ('atss_cls',)
    own_init = True

    def __init__(self, *args: Any, loss_cls: dict, loss_iou: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, loss_cls=loss_cls, **kwargs)
        del self.loss_iou

    def _init_layers(self) -> None:
        super()._init_layers()
        # DDODHead calls this layer. It must not have parameters, because they would get no gradient.
        self.atss_iou = nn.Identity()

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits ``(N, num_priors * num_classes, H, W)`` and box deltas ``(N, num_priors * 4, H, W)``."""
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
        """Losses of a batch; arguments as for :meth:`mmdet.models.DDODHead.loss_by_feat`, without IoUs."""
        sizes = [level.shape[-2:] for level in cls_scores]
        anchors, flags = self.get_anchors(sizes, batch_img_metas, device=cls_scores[0].device)
        shifted = [at_least_float32(level.detach()) + self.score_shift for level in cls_scores]
        deltas = [at_least_float32(level.detach()) for level in bbox_preds]
        *predictions, ignored = self.process_predictions_and_anchors(
            anchors, flags, shifted, deltas, batch_img_metas, batch_gt_instances_ignore
        )
        to_rank, to_regress = (
            get_targets(*predictions, batch_gt_instances, batch_img_metas, ignored)
            for get_targets in (self.get_cls_targets, self.get_reg_targets)
        )
        logits, predicted = flatten_maps(cls_scores, self.cls_out_channels), flatten_maps(bbox_preds, 4)
        priors = flatten_targets(to_rank[0])
        labels, label_weights = (flatten_targets(levels) for levels in to_rank[1:3])

        def boxes_of(rows: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            boxes, target_boxes = (
                self.bbox_coder.decode(priors[rows], deltas[rows]) for deltas in (predicted, flatten_targets(targets))
            )
            return boxes, target_boxes, logits[rows]

        positive = self.positives(labels, label_weights)
        regressed = self.positives(*(flatten_targets(levels) for levels in to_regress[1:3]))
        weights = highest_probability(logits[regressed]) * self.level_factors(to_regress[1])[regressed]
        boxes = SeparateBoxes(
            self.loss_bbox,
            *boxes_of(positive, to_rank[3]),
            regressed=PositiveBoxes(self.loss_bbox, *boxes_of(regressed, to_regress[3]), weights=weights),
        )
        images = self.image_rows([level.size(1) for level in to_rank[1]], len(batch_img_metas), labels.device)
        losses = self.loss_cls.losses_with_boxes(logits, labels, label_weights, positive, boxes, images)
        return nan_if_not_finite(losses, predicted)  # predicted boxes decide what is positive

    def level_factors(self, labels: list[Tensor]) -> Tensor:
        """``(n,)`` factors of the box losses, in the order of :func:`flatten_maps`; counts positives over all steps.

        Args:
            labels: ``(num_imgs, num_anchors)`` labels of the box assigner, per level.
        """
        factors = self.calc_reweight_factor(labels)
        rows = [
            level.new_full((level.numel(),), factor, dtype=torch.float32)
            for level, factor in zip(labels, factors, strict=True)
        ]
        return torch.cat(rows)
