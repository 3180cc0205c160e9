"""The query head of Co-Deformable-DETR, and its version for ranking losses (BRS-DETR)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..recipes import Role, ranking_head
from ..rules import QUERY_HEAD
from .auxiliary_sets import AuxiliarySetsMixin
from .plain_query_losses import plain_query_losses
from .query_ranking import QueryRankingMixin
from .query_sets import (
    QuerySet,
    QueryTargets,
    match_queries,
    matched_layers,
    matched_proposals,
    of_first_class,
)


@MODELS.register_module()
class CoDeformDETRHead(AuxiliarySetsMixin, DeformableDETRHead):
    """``DeformableDETRHead`` that looks forward twice and can also be trained on queries with given targets.

    It can replace ``DeformableDETRHead`` in MMDetection's ``DeformableDETR``. The losses of the last decoder layer are
    logged without a prefix, those of the other layers as ``d0.loss_cls`` and so on, and those of the encoder's
    proposals as ``enc.…``.

    Args:
        look_forward_twice: Let the gradient of each layer's boxes also reach the previous layer, as DINO does. This
            does not change the predictions.
        args, kwargs: As for :class:`mmdet.models.DeformableDETRHead` and :class:`AuxiliarySetsMixin`.
    """

    def __init__(self, *args: Any, look_forward_twice: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The layers share their branches exactly if boxes are not refined from layer to layer. Then there is no box of
        # a previous layer that a gradient could reach.
        self.look_forward_twice = look_forward_twice and not self.share_pred_layer

    def forward(self, hidden_states: Tensor, references: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Predictions of every decoder layer.

        Args:
            hidden_states: ``(num_layers, batch, n, embed_dims)``.
            references: ``num_layers + 1`` tensors ``(batch, n, 4)``, normalised: the boxes that each layer starts from.
                The first may be points, ``(batch, n, 2)``; the last is not read.

        Returns:
            Logits ``(num_layers, batch, n, num_classes)`` and boxes ``(num_layers, batch, n, 4)``, cx cy w h.
        """
        logits, boxes = [], []
        refined: Tensor | None = None  # the refined boxes of the previous layer, with their gradient
        for layer, hidden in enumerate(hidden_states):
            offsets = self.reg_branches[layer](hidden)
            logits.append(self.cls_branches[layer](hidden))
            boxes.append(_move(references[layer] if refined is None else refined, offsets))
            if self.look_forward_twice:
                refined = _move(references[layer], offsets)
        return torch.stack(logits), torch.stack(boxes)

    def loss(self, *args: Any, enc_outputs_valid: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Losses of all queries; arguments as for :class:`AuxiliarySetsMixin`, and one additional argument.

        Args:
            enc_outputs_valid: ``(batch, num_locations)`` bool, False for locations without a proposal: in the padding
                and at the border of the image. These do not contribute to the losses. None: all locations contribute,
                as in ``DeformableDETR``.
        """
        return super().loss(*args, enc_valid=enc_outputs_valid, **kwargs)

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor | None,
        enc_bbox_preds: Tensor | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
        enc_valid: Tensor | None = None,
        auxiliary: Sequence[QuerySet] = (),
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for ``DeformableDETRHead`` and :meth:`loss`.

        ``batch_gt_instances_ignore`` is not used.
        """
        objects = of_first_class(batch_gt_instances)
        sets = matched_proposals(self, 'enc.', enc_cls_scores, enc_bbox_preds, objects, batch_img_metas, enc_valid)
        sets += matched_layers(self, all_layers_cls_scores, all_layers_bbox_preds, batch_gt_instances, batch_img_metas)
        return self.query_losses([*sets, *auxiliary], batch_img_metas)

    def match(
        self,
        logits: Tensor,
        boxes: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        valid: Tensor | None = None,
    ) -> QueryTargets:
        """One-to-one targets by the head's assigner, see :func:`match_queries`."""
        return match_queries(self, logits, boxes, batch_gt_instances, batch_img_metas, valid)

    def query_losses(self, sets: Sequence[QuerySet], batch_img_metas: list[dict]) -> dict[str, Tensor]:
        """Losses of all sets by log name.

        Args:
            sets: Predictions of the same images.
            batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
        """
        return plain_query_losses(self, self.loss_cls, sets, batch_img_metas)

    def _predict_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool = True
    ) -> InstanceData:
        # MMDetection takes the best max_per_img scores and fails if there are fewer. Small images have few queries.
        available = cls_score.numel() if self.loss_cls.use_sigmoid else len(cls_score)
        if self.test_cfg.get('max_per_img', 0) <= available:
            return super()._predict_by_feat_single(cls_score, bbox_pred, img_meta, rescale)
        limited = copy.copy(self)  # it shares everything with this head except for the limit
        limited.test_cfg = {**self.test_cfg, 'max_per_img': available}
        return limited._predict_by_feat_single(cls_score, bbox_pred, img_meta, rescale)


@ranking_head(CoDeformDETRHead, role=Role.QUERIES, rules=QUERY_HEAD, unused=['sync_cls_avg_factor'])
@MODELS.register_module()
class RankBasedCoDeformDETRHead(QueryRankingMixin, CoDeformDETRHead):
    """``CoDeformDETRHead`` trained with a ranking loss, Eq. 17: the query head of BRS-DETR.

    Each decoder layer, the encoder's proposals and each group of auxiliary queries is ranked by itself
    (:class:`QueryRankingMixin`). ``loss_rank`` and ``loss_sort`` are logged in place of ``loss_cls``.

    The classifiers' biases start at 0, not at MMDetection's prior probability, as in all heads of this package;
    ``classifier_prior`` changes that.
    """

    classifiers = ('cls_branches',)
    baseline = 'CoDeformDETRHead'


def _move(reference: Tensor, offsets: Tensor) -> Tensor:
    """Boxes ``(..., 4)`` from offsets to the inverse sigmoid of a reference box, or of a reference point."""
    start = inverse_sigmoid(reference)
    if start.shape[-1] == 2:
        start = torch.cat([start, torch.zeros_like(start)], dim=-1)
    return (offsets + start).sigmoid()
