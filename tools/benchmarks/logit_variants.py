"""Heads of an experiment: other logits to rank, where several branches multiply into the score.

``docs/results.md`` compares them with the heads of this package. Import this module in a config of one of those:

    PYTHONPATH=tools/benchmarks python tools/train.py CONFIG --cfg-options \
        custom_imports.imports=[bucketed_losses.mmdet,logit_variants] model.bbox_head.type=ClassRankedYOLOXHead
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from bucketed_losses.mmdet.models.dense_heads.rank_based_fcos_head import RankBasedFCOSHead
from bucketed_losses.mmdet.models.dense_heads.rank_based_yolof_head import RankBasedYOLOFHead
from bucketed_losses.mmdet.models.dense_heads.rank_based_yolox_head import RankBasedYOLOXHead
from bucketed_losses.mmdet.models.dense_heads.ranking_mixin import RankingHeadMixin, flatten_maps


@MODELS.register_module()
class ClassRankedYOLOXHead(RankBasedYOLOXHead):
    """Class logits are ranked. Objectness keeps its cross-entropy and its prior of 0.01."""

    classifiers = ('multi_level_conv_cls',)  # type: ignore[assignment]
    num_factors = 1

    def init_weights(self) -> None:
        super().init_weights()
        for conv in self.multi_level_conv_obj:
            nn.init.constant_(conv.bias, torch.logit(torch.tensor(0.01)).item())

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        self._classes = flatten_maps(cls_scores, self.cls_out_channels)
        self._objectness = flatten_maps(objectnesses, 1)[:, 0]
        # The assigner reads shifted logits of both branches. Those of objectness are probabilities as they are.
        lowered = [level - self.score_shift for level in objectnesses]
        return super().loss_by_feat(cls_scores, bbox_preds, lowered, *args, **kwargs)

    def ranking_losses(
        self, logits: Tensor, predictions: Tensor, priors: Tensor, labels: Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        losses = super().ranking_losses(self._classes, predictions, priors, labels, *args, **kwargs)
        positive = (labels < self.num_classes).to(self._objectness)
        total = F.binary_cross_entropy_with_logits(self._objectness, positive, reduction='sum')
        return losses | {'loss_obj': total / positive.sum().clamp(min=1)}


@MODELS.register_module()
class ClassRankedYOLOFHead(RankBasedYOLOFHead):
    """Without implicit objectness: class logits are ranked, and their sigmoids are the scores."""

    classifiers = ('cls_score',)  # type: ignore[assignment]
    num_factors = 1

    def _init_layers(self) -> None:
        super()._init_layers()
        del self.object_pred

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(self.cls_subnet(x)), self.bbox_pred(self.bbox_subnet(x))


@MODELS.register_module()
class CenterednessFCOSHead(RankingHeadMixin, FCOSHead):
    """Class logits are ranked. Centerness keeps its loss and multiplies into the scores, as in ``FCOSHead``."""

    classifiers = ('conv_cls',)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        batch_gt_instances: list,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list | None = None,
    ) -> dict[str, Tensor]:
        losses = RankBasedFCOSHead.loss_by_feat(self, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas)
        sizes = [level.shape[-2:] for level in cls_scores]
        points = self.prior_generator.grid_priors(sizes, dtype=bbox_preds[0].dtype, device=bbox_preds[0].device)
        labels, distances = (torch.cat(levels) for levels in self.get_targets(points, batch_gt_instances)[:2])
        positive = labels < self.num_classes
        predicted = flatten_maps(centernesses, 1)[positive, 0]
        targets = self.centerness_target(distances[positive])
        return losses | {'loss_centerness': self.loss_centerness(predicted, targets, avg_factor=max(len(targets), 1))}
