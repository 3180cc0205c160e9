"""DDQ-DETR trained with a ranking loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import DDQDETRHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..losses.box_weighting import at_least_float32
from ..recipes import Role, ranking_head
from .query_sets import (
    QuerySet,
    QueryTargets,
    image_sizes,
    matched_layers,
    matched_proposals,
    objects_to_match,
)
from .rank_based_dino_head import DENOISING_HEAD, RankingDenoisingMixin


@ranking_head(DDQDETRHead, role=Role.QUERIES, rules=DENOISING_HEAD)
@MODELS.register_module()
class RankBasedDDQDETRHead(RankingDenoisingMixin, DDQDETRHead):
    """``DDQDETRHead`` trained with a ranking loss.

    Each decoder layer, the encoder's proposals, the dense queries of each decoder layer and of the encoder, and the
    denoising queries of each decoder layer are ranked by themselves (:class:`QueryRankingMixin`). As in DDQ, queries of
    a layer that are not distinct are ignored, and each object has up to ``aux_num_pos`` dense queries. The box losses
    of dense queries are those of other queries. ``loss_rank`` and ``loss_sort`` are logged in place of ``loss_cls``.
    ``loss_dn_cls`` keeps another loss for the denoising queries (:class:`RankingDenoisingMixin`).

    Several positives of an object and their neighbours, which are negatives, have nearly the same features, so the
    ranking losses of dense queries stay large, and so do the box losses that are balanced to them. ``dense_weight``
    keeps them from dominating the gradient.

    If an image has fewer scores of distinct queries than ``max_per_img``, it gets fewer predictions. The stock head
    fails then (``selected index k out of range``).

    Args:
        dense_weight: The factor on all losses of dense queries.
    """

    classifiers = ('cls_branches', 'aux_cls_branches')
    baseline = 'DDQDETRHead'

    def __init__(self, *args: Any, dense_weight: float = 0.25, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dense_weight = dense_weight

    def loss(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        enc_outputs_class: Tensor,
        enc_outputs_coord: Tensor,
        batch_data_samples: SampleList,
        dn_meta: dict[str, int],
        aux_enc_outputs_class: Tensor | None = None,
        aux_enc_outputs_coord: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for ``DDQDETRHead``."""
        logits, boxes = self(hidden_states, references)
        return self.loss_by_feat(
            logits,
            boxes,
            enc_outputs_class,
            enc_outputs_coord,
            [sample.gt_instances for sample in batch_data_samples],
            [sample.metainfo for sample in batch_data_samples],
            dn_meta,
            aux_enc_cls_scores=aux_enc_outputs_class,
            aux_enc_bbox_preds=aux_enc_outputs_coord,
        )

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
        aux_enc_cls_scores: Tensor | None = None,
        aux_enc_bbox_preds: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for ``DDQDETRHead``, and the dense queries of the encoder.

        ``batch_gt_instances_ignore`` is not used.

        Args:
            aux_enc_cls_scores: ``(batch, num_dense_queries, num_classes)`` logits.
            aux_enc_bbox_preds: ``(batch, num_dense_queries, 4)``, normalised cx cy w h.
        """
        logits, boxes, dn_logits, dn_boxes = self.split_outputs(all_layers_cls_scores, all_layers_bbox_preds, dn_meta)
        num_dense = dn_meta['num_dense_queries']
        num_distinct = logits.size(2) - num_dense
        (logits, dense_logits), (boxes, dense_boxes) = (
            outputs.split([num_distinct, num_dense], dim=2) for outputs in (logits, boxes)
        )
        truth = batch_gt_instances, batch_img_metas
        sets = matched_layers(self, logits, boxes, *truth, self.distinct_queries(*logits.shape[:2]))
        sets += matched_proposals(self, 'enc_', enc_cls_scores, enc_bbox_preds, *truth)
        # Log names are those of the stock head.
        dense = {f'{layer}_aux_aux_': pair for layer, pair in enumerate(zip(dense_logits, dense_boxes, strict=True))}
        if aux_enc_cls_scores is not None and aux_enc_bbox_preds is not None:
            dense['aux_enc_aux_'] = aux_enc_cls_scores, aux_enc_bbox_preds
        sets += [
            QuerySet(prefix, *pair, self.dense_targets(*pair, *truth), self.dense_weight)
            for prefix, pair in dense.items()
        ]
        return self.losses_with_denoising(sets, dn_logits, dn_boxes, *truth, dn_meta)

    def distinct_queries(self, num_layers: int, num_images: int) -> list[Tensor | None]:
        """``(batch, num_queries)`` masks of the distinct queries of each layer; None for all queries."""
        masks, num_heads = self.cache_dict['distinct_query_mask'], self.cache_dict['num_heads']
        return [
            None if layer == 0 else torch.stack([masks[layer - 1][image * num_heads][0] for image in range(num_images)])
            for layer in range(num_layers)
        ]

    @torch.no_grad()
    def dense_targets(
        self, logits: Tensor, boxes: Tensor, batch_gt_instances: InstanceList, batch_img_metas: list[dict]
    ) -> QueryTargets:
        """One-to-many targets of dense queries, by the stock head's assigner, which reads lowered logits.

        Queries of an image without objects are ignored, as in the stock head. An image with predictions that are not
        finite is matched as if it had no objects.

        Args:
            logits: ``(batch, n, num_classes)``.
            boxes: ``(batch, n, 4)``, normalised cx cy w h.
            batch_gt_instances: Objects of each image.
            batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
        """
        # The assigner's targets are float32, and it copies boxes into them.
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        scores = (logits + self.score_shift).sigmoid()
        sizes = image_sizes(batch_img_metas, boxes).unsqueeze(1)
        pixels = bbox_cxcywh_to_xyxy(boxes) * sizes
        images = []
        for image, objects in enumerate(batch_gt_instances):
            own = objects_to_match(objects, logits[image], boxes[image])
            images.append(
                self.aux_loss_for_dense._get_target_single(
                    scores[image], pixels[image], own.bboxes, own.labels, batch_img_metas[image]
                )[:3]
            )
        labels, weights, targets = (torch.stack(values) for values in zip(*images, strict=True))
        positive = (labels < self.num_classes).flatten().nonzero().squeeze(1)
        return QueryTargets(labels, weights, bbox_xyxy_to_cxcywh(targets) / sizes, positive)

    def _predict_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool = True
    ) -> InstanceData:
        """Predictions of an image; arguments as for ``DDQDETRHead``, ``cls_score`` of its distinct queries."""
        lacking = self.test_cfg.get('max_per_img', 0) - cls_score.numel()
        if lacking <= 0:
            return super()._predict_by_feat_single(cls_score, bbox_pred, img_meta, rescale)
        padding = (0, 0, 0, -(-lacking // self.num_classes))
        padded = F.pad(cls_score, padding, value=-torch.inf), F.pad(bbox_pred, padding)
        predictions = super()._predict_by_feat_single(*padded, img_meta, rescale)
        return predictions[: cls_score.numel()]
