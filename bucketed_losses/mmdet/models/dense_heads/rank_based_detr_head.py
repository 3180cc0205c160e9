"""DETR trained with a ranking loss."""

from __future__ import annotations

from mmdet.models.dense_heads import DETRHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..recipes import Role, ranking_head
from ..rules import QUERY_HEAD
from .query_ranking import QueryRankingMixin
from .query_sets import matched_layers


class RankingDETRHeadMixin(QueryRankingMixin):
    """A mixin for ``DETRHead`` and heads that differ from it in their layers: each decoder layer is a set of queries.

    Raises:
        ValueError: As :class:`QueryRankingMixin`.
    """

    classifiers = ('fc_cls',)

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for ``DETRHead``. ``batch_gt_instances_ignore`` is not used."""
        sets = matched_layers(self, all_layers_cls_scores, all_layers_bbox_preds, batch_gt_instances, batch_img_metas)
        return self.query_losses(sets, batch_img_metas)


@ranking_head(DETRHead, role=Role.QUERIES, rules=QUERY_HEAD, unused=['sync_cls_avg_factor'])
@MODELS.register_module()
class RankBasedDETRHead(RankingDETRHeadMixin, DETRHead):
    """``DETRHead`` trained with a ranking loss: one sigmoid for each class instead of a softmax with "no object".

    Each decoder layer is ranked by itself (:class:`QueryRankingMixin`). ``loss_rank`` and ``loss_sort`` are logged in
    place of ``loss_cls``. The class cost of matching must read sigmoid scores, as ``FocalLossCost`` does.
    """

    baseline = 'DETRHead'
