"""What every anchor-based dense head needs to be trained with a ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from ..losses import RankingLoss, score_weighted_box_loss, self_balance

if TYPE_CHECKING:
    from mmdet.models.dense_heads import AnchorHead as _Host
else:
    _Host = object


class RankingDenseHeadMixin(_Host):
    """Put before an mmdet ``AnchorHead`` subclass: a background-free sigmoid classifier and :meth:`ranking_losses`.

    The head's classifier bias starts at 0, not at MMDetection's prior probability: a ranking loss compares logits with
    each other and never moves them as a whole, so a prior of 0.01 would keep true detections under score thresholds.
    """

    def __init__(
        self,
        *args: Any,
        loss_cls: dict,
        init_cfg: dict | list | None = None,
        reg_decoded_bbox: bool = True,
        **kwargs: Any,
    ) -> None:
        if not reg_decoded_bbox:
            raise ValueError(
                f'{type(self).__name__}: reg_decoded_bbox must be True, got False; the labels of the positives are '
                'the IoUs of decoded boxes, and so is the box loss'
            )
        super().__init__(
            *args,
            loss_cls={'use_sigmoid': True, **loss_cls},
            init_cfg=init_cfg or dict(type='Normal', layer='Conv2d', std=0.01),
            reg_decoded_bbox=True,
            **kwargs,
        )
        if not isinstance(self.loss_cls, RankingLoss):
            raise ValueError(
                f'{type(self).__name__}: loss_cls must be a ranking loss (APLoss, BucketedAPLoss, RSLoss or '
                f"BucketedRSLoss), got {type(self.loss_cls).__name__}; use MMDetection's own head with that loss"
            )

    def ranking_losses(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        anchors: list[Tensor],
        labels: list[Tensor],
        label_weights: list[Tensor],
        bbox_targets: list[Tensor],
    ) -> dict[str, Tensor]:
        """Rank all levels and images of the batch together; one entry per level in every list.

        Args:
            cls_scores: ``(num_imgs, num_priors * num_classes, H, W)`` logits.
            bbox_preds: ``(num_imgs, num_priors * 4, H, W)`` box deltas.
            anchors: ``(num_imgs, num_anchors, 4)``, x1 y1 x2 y2.
            labels: ``(num_imgs, num_anchors)`` class indices, ``num_classes`` for background.
            label_weights: ``(num_imgs, num_anchors)``, 0 for ignored anchors.
            bbox_targets: ``(num_imgs, num_anchors, 4)`` ground-truth boxes of the positives, x1 y1 x2 y2.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses) and ``loss_bbox``; all 0 and connected if there is no positive.
        """
        logits = _flatten_maps(cls_scores, self.cls_out_channels)
        deltas = _flatten_maps(bbox_preds, 4)
        flat_labels = _flatten_targets(labels)
        weights = _flatten_targets(label_weights)
        positive = ((flat_labels < self.num_classes) & (weights > 0)).nonzero().squeeze(1)

        boxes = self.bbox_coder.decode(_flatten_targets(anchors)[positive], deltas[positive])
        target_boxes = _flatten_targets(bbox_targets)[positive]
        ious = deltas.new_zeros(len(deltas))
        ious[positive] = bbox_overlaps(boxes.detach(), target_boxes, is_aligned=True)

        losses = self.loss_cls(logits, (flat_labels, ious), weight=weights)
        loss_bbox = score_weighted_box_loss(self.loss_bbox, boxes, target_boxes, logits[positive])
        if self.loss_cls.self_balancing:
            loss_bbox = self_balance(loss_bbox, losses)
        return {**losses, 'loss_bbox': loss_bbox}


def _flatten_maps(maps: list[Tensor], channels: int) -> Tensor:
    """Maps ``(num_imgs, num_priors * channels, H, W)`` as one ``(n, channels)`` float32 (or float64) tensor."""
    flat = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps])
    return flat if flat.dtype == torch.float64 else flat.float()


def _flatten_targets(targets: list[Tensor]) -> Tensor:
    """Targets ``(num_imgs, num_anchors, ...)`` of every level as one tensor, in the order of :func:`_flatten_maps`."""
    return torch.cat([level.flatten(0, 1) for level in targets])
