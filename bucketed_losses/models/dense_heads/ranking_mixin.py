"""What every anchor-based dense head needs to be trained with a ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.task_modules.samplers import PseudoSampler
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses import ImageRows, check_decodes_boxes, check_head_losses, ranking_and_box_losses
from ..losses.box_weighting import at_least_float32

if TYPE_CHECKING:
    from mmdet.models.dense_heads import AnchorHead as _Host
else:
    _Host = object


class RankingDenseHeadMixin(_Host):
    """Put before an mmdet ``AnchorHead`` subclass: a background-free sigmoid classifier, ranked over levels and images.

    The head's classifier bias starts at 0, not at MMDetection's prior probability: a ranking loss compares logits with
    each other and never moves them as a whole, so a prior of 0.01 would keep true detections under score thresholds.

    Raises:
        ValueError: when built with a loss that does not rank, a box loss on deltas, ``reg_decoded_bbox=False``, or a
            sampler that leaves anchors out.
    """

    def __init__(
        self,
        *args: Any,
        loss_cls: dict,
        init_cfg: dict | list | None = None,
        reg_decoded_bbox: bool = True,
        **kwargs: Any,
    ) -> None:
        check_decodes_boxes(self, reg_decoded_bbox)
        super().__init__(
            *args,
            loss_cls={'use_sigmoid': True, **loss_cls},
            init_cfg=init_cfg or dict(type='Normal', layer='Conv2d', std=0.01),
            reg_decoded_bbox=True,
            **kwargs,
        )
        check_head_losses(self)
        if self.train_cfg and not isinstance(self.sampler, PseudoSampler):
            raise ValueError(
                f'{type(self).__name__}: a ranking loss needs no sampling, got {type(self.sampler).__name__}; write '
                "sampler=dict(_delete_=True, type='PseudoSampler') in the head's train_cfg"
            )

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.AnchorHead.loss_by_feat`."""
        featmap_sizes = [level.shape[-2:] for level in cls_scores]
        anchors, valid_flags = self.get_anchors(featmap_sizes, batch_img_metas, device=cls_scores[0].device)
        # Before the targets: ATSS's get_targets joins the levels of this list in place.
        flat_anchors = torch.cat([torch.cat(level) for level in zip(*anchors, strict=True)])
        labels, label_weights, bbox_targets = self.level_targets(
            anchors, valid_flags, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        images = None
        if self.loss_cls.needs_images:
            num_images = len(batch_img_metas)
            rows = [torch.arange(num_images, device=x.device).repeat_interleave(x.size(1)) for x in labels]
            images = ImageRows(torch.cat(rows), num_images)
        return self.ranking_losses(
            flatten_maps(cls_scores, self.cls_out_channels),
            flatten_maps(bbox_preds, 4),
            flat_anchors,
            flatten_targets(labels),
            flatten_targets(label_weights),
            flatten_targets(bbox_targets),
            images,
        )

    def level_targets(self, *args: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """``labels``, ``label_weights`` and ``bbox_targets`` per level, ``(num_imgs, num_anchors, ...)``.

        Arguments are those of the head's ``get_targets``; heads whose ``get_targets`` returns another order override
        this.
        """
        labels, label_weights, bbox_targets, *_ = self.get_targets(*args)
        return labels, label_weights, bbox_targets

    def ranking_losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        images: ImageRows | None = None,
    ) -> dict[str, Tensor]:
        """Rank the predictions of all levels and images of the batch together, in any order.

        Args:
            logits: ``(n, num_classes)``.
            deltas: ``(n, 4)`` box deltas.
            anchors: ``(n, 4)``, x1 y1 x2 y2 in pixels.
            labels: ``(n,)`` class indices, ``num_classes`` for background.
            label_weights: ``(n,)``, 0 for ignored anchors.
            bbox_targets: ``(n, 4)`` ground-truth boxes of the positives, x1 y1 x2 y2 in pixels.
            images: The images of the predictions, for a loss that ranks each alone.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses) and ``loss_bbox``; all 0 and connected if there is no positive.
        """
        positive = ((labels < self.num_classes) & (label_weights > 0)).nonzero().squeeze(1)
        boxes = self.bbox_coder.decode(anchors[positive], deltas[positive])
        return ranking_and_box_losses(
            self.loss_cls,
            self.loss_bbox,
            logits,
            labels,
            label_weights,
            positive,
            boxes,
            bbox_targets[positive],
            images,
        )


def flatten_maps(maps: list[Tensor], channels: int) -> Tensor:
    """Maps ``(num_imgs, num_priors * channels, H, W)`` as one ``(n, channels)`` float32 (or float64) tensor."""
    return at_least_float32(torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps]))


def flatten_targets(targets: list[Tensor]) -> Tensor:
    """Targets ``(num_imgs, num_anchors, ...)`` of every level as one tensor, in the order of :func:`flatten_maps`."""
    return torch.cat([level.flatten(0, 1) for level in targets])
