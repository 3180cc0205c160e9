"""The query head of Co-DINO, and its version for ranking losses (BRS Co-DINO)."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.ops import batched_nms
from mmdet.models.dense_heads import DINOHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..recipes import Role, ranking_head
from .auxiliary_sets import AuxiliarySetsMixin
from .plain_query_losses import plain_query_losses
from .query_sets import QuerySet
from .rank_based_dino_head import DENOISING_HEAD, RankBasedDINOHead


@MODELS.register_module()
class CoDINOHead(AuxiliarySetsMixin, DINOHead):
    """``DINOHead`` that can also be trained on queries with given targets, and can suppress duplicates.

    The losses of all other queries are those of ``DINOHead``.

    Args:
        args, kwargs: As for :class:`mmdet.models.DINOHead` and :class:`AuxiliarySetsMixin`. ``test_cfg.nms`` is the
            config of a non-maximum suppression of the detections of each class, e.g. the published
            ``dict(type='soft_nms', iou_threshold=0.8)``. Without it, there is none, as in ``DINOHead``.
    """

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor | None,
        enc_bbox_preds: Tensor | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        dn_meta: dict[str, int],
        batch_gt_instances_ignore: OptInstanceList = None,
        auxiliary: Sequence[QuerySet] = (),
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for ``DINOHead``, and ``auxiliary``: further queries with given targets."""
        losses = super().loss_by_feat(
            all_layers_cls_scores,
            all_layers_bbox_preds,
            enc_cls_scores,
            enc_bbox_preds,
            batch_gt_instances,
            batch_img_metas,
            dn_meta,
            batch_gt_instances_ignore,
        )
        return losses | plain_query_losses(self, self.loss_cls, auxiliary, batch_img_metas)

    def _predict_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool = True
    ) -> InstanceData:
        results = super()._predict_by_feat_single(cls_score, bbox_pred, img_meta, rescale)
        nms = self.test_cfg.get('nms')
        if nms is None or len(results) == 0:
            return results
        kept, order = batched_nms(results.bboxes, results.scores, results.labels, nms)
        results = results[order]
        results.scores = kept[:, -1]  # soft NMS lowers scores
        return results


@ranking_head(CoDINOHead, role=Role.QUERIES, rules=DENOISING_HEAD)
@MODELS.register_module()
class RankBasedCoDINOHead(RankBasedDINOHead, CoDINOHead):
    """``CoDINOHead`` trained with a ranking loss: the query head of BRS Co-DINO.

    Each decoder layer, the encoder's proposals, the denoising queries of each decoder layer and each group of auxiliary
    queries is ranked by itself, see :class:`RankBasedDINOHead`.
    """

    baseline = 'CoDINOHead'
