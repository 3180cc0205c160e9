"""Heads of an experiment: other logits to rank, where several branches multiply into the score.

``docs/results.md`` compares them with the heads of this package. Import this module in a config of one of those:

    PYTHONPATH=tools/benchmarks python tools/train.py CONFIG --cfg-options \
        custom_imports.imports=[bucketed_losses.mmdet,logit_variants] model.bbox_head.type=ClassRankedYOLOXHead
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from mmengine.model import bias_init_with_prob
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
            nn.init.constant_(conv.bias, bias_init_with_prob(0.01))

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
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], centernesses: list[Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        self._centerness = flatten_maps(centernesses, 1)[:, 0]
        return RankBasedFCOSHead.loss_by_feat(self, cls_scores, bbox_preds, *args, **kwargs)

    def ranking_losses(
        self,
        logits: Tensor,
        predictions: Tensor,
        priors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        targets = (labels, label_weights, bbox_targets)
        losses = super().ranking_losses(logits, predictions, priors, *targets, *args, **kwargs)
        positive = labels < self.num_classes
        distances = self.bbox_coder.encode(priors[positive], bbox_targets[positive])
        predicted, expected = self._centerness[positive], self.centerness_target(distances)
        return losses | {
            'loss_centerness': self.loss_centerness(predicted, expected, avg_factor=max(len(predicted), 1))
        }
