"""Deformable DETR trained with a ranking loss."""

from __future__ import annotations

from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..recipes import Role, ranking_head
from ..rules import QUERY_HEAD
from .query_ranking import QueryRankingMixin
from .query_sets import matched_layers, matched_proposals, of_first_class


@ranking_head(DeformableDETRHead, role=Role.QUERIES, rules=QUERY_HEAD, unused=['sync_cls_avg_factor'])
@MODELS.register_module()
class RankBasedDeformableDETRHead(QueryRankingMixin, DeformableDETRHead):
    """``DeformableDETRHead`` trained with a ranking loss.

    Each decoder layer, and the encoder's proposals if there are two stages, is ranked by itself
    (:class:`QueryRankingMixin`). ``loss_rank`` and ``loss_sort`` are logged in place of ``loss_cls``.
    """

    classifiers = ('cls_branches',)
    baseline = 'DeformableDETRHead'

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor | None,
        enc_bbox_preds: Tensor | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for ``DeformableDETRHead``. ``batch_gt_instances_ignore`` is not used."""
        sets = matched_layers(self, all_layers_cls_scores, all_layers_bbox_preds, batch_gt_instances, batch_img_metas)
        objects = of_first_class(batch_gt_instances)
        sets += matched_proposals(self, 'enc_', enc_cls_scores, enc_bbox_preds, objects, batch_img_metas)
        return self.query_losses(sets, batch_img_metas)
