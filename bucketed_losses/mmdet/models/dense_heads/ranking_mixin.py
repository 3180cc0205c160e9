"""What every dense head with sigmoid scores needs to be trained with a ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.task_modules.samplers import PseudoSampler
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..classifiers import ClassifierMixin
from ..losses import ImageRows, check_decodes_boxes, check_head_losses, ranking_and_box_losses
from ..losses.box_weighting import at_least_float32

if TYPE_CHECKING:
    from mmdet.models.dense_heads import AnchorHead as _Host
else:
    _Host = object


class RankingHeadMixin(ClassifierMixin, _Host):
    """Put before an mmdet dense head, anchor-based or not: a background-free sigmoid classifier and its losses.

    A subclass names its ``classifiers``, see :class:`ClassifierMixin`, says in ``loss_by_feat`` what its predictions
    are and hands them to :meth:`ranking_losses`.

    Raises:
        ValueError: when built with a loss that does not rank, or a box loss on deltas.
    """

    def __init__(self, *args: Any, loss_cls: dict, init_cfg: dict | list | None = None, **kwargs: Any) -> None:
        super().__init__(
            *args,
            loss_cls={'use_sigmoid': True, **loss_cls},
            init_cfg=init_cfg or (None if self.own_init else dict(type='Normal', layer='Conv2d', std=0.01)),
            **kwargs,
        )
        check_head_losses(self)

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        """Boxes ``(n, 4)``, x1 y1 x2 y2 in pixels, of predictions ``(n, ...)`` at their priors ``(n, ...)``."""
        return self.bbox_coder.decode(priors, predictions)

    def ranking_losses(
        self,
        logits: Tensor,
        predictions: Tensor,
        priors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        images: ImageRows | None = None,
    ) -> dict[str, Tensor]:
        """Rank the predictions of all levels and images of the batch together, in any order.

        Args:
            logits: ``(n, num_classes)``.
            predictions: ``(n, ...)`` what :meth:`decode` makes boxes of: deltas, distances.
            priors: ``(n, ...)`` what it makes them from: anchors, points.
            labels: ``(n,)`` class indices, ``num_classes`` for background.
            label_weights: ``(n,)``, 0 for ignored predictions.
            bbox_targets: ``(n, 4)`` ground-truth boxes of the positives, x1 y1 x2 y2 in pixels.
            images: The images of the predictions, for a loss that ranks each alone.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox`` and what :meth:`other_box_losses` adds. If
            there is no positive, all are connected and 0, except for the value of DR Loss.
        """
        positive = ((labels < self.num_classes) & (label_weights > 0)).nonzero().squeeze(1)
        priors, predictions, targets = priors[positive], predictions[positive], bbox_targets[positive]
        return ranking_and_box_losses(
            self.loss_cls,
            self.loss_bbox,
            logits,
            labels,
            label_weights,
            positive,
            self.decode(priors, predictions),
            targets,
            images,
            self.other_box_losses(priors, predictions, targets, logits[positive]),
        )

    def other_box_losses(
        self, priors: Tensor, predictions: Tensor, targets: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the positives' boxes beside ``loss_bbox``, by log name; they are balanced together with it."""
        return {}

    def image_rows(self, sizes: list[int], num_images: int, device: torch.device) -> ImageRows | None:
        """The images of predictions in the order of :func:`flatten_maps`, if the loss reads them.

        Args:
            sizes: Predictions of one image on every level.
            num_images: Images of the batch.
            device: Where the predictions are.
        """
        if not self.loss_cls.needs_images:
            return None
        rows = [torch.arange(num_images, device=device).repeat_interleave(size) for size in sizes]
        return ImageRows(torch.cat(rows), num_images)


class RankingDenseHeadMixin(RankingHeadMixin):
    """Put before an mmdet ``AnchorHead`` subclass: ranked over levels and images, nothing sampled.

    Raises:
        ValueError: as :class:`RankingHeadMixin`; and ``reg_decoded_bbox=False`` or a sampler that leaves anchors out.
    """

    box_channels = 4

    def __init__(self, *args: Any, reg_decoded_bbox: bool = True, **kwargs: Any) -> None:
        check_decodes_boxes(self, reg_decoded_bbox)
        super().__init__(*args, reg_decoded_bbox=True, **kwargs)
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
        priors = self.flat_priors(anchors)
        labels, label_weights, bbox_targets = self.level_targets(
            anchors, valid_flags, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        return self.ranking_losses(
            flatten_maps(cls_scores, self.cls_out_channels),
            flatten_maps(bbox_preds, self.box_channels),
            priors,
            flatten_targets(labels),
            flatten_targets(label_weights),
            flatten_targets(bbox_targets),
            self.image_rows([level.size(1) for level in labels], len(batch_img_metas), priors.device),
        )

    def flat_priors(self, anchors: list[list[Tensor]]) -> Tensor:
        """What :meth:`decode` reads of the anchors ``(num_anchors, 4)`` of every image and level, as one tensor."""
        return torch.cat([torch.cat(level) for level in zip(*anchors, strict=True)])

    def level_targets(self, *args: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """``labels``, ``label_weights`` and ``bbox_targets`` per level, ``(num_imgs, num_anchors, ...)``.

        Arguments are those of the head's ``get_targets``; heads whose ``get_targets`` returns another order override
        this.
        """
        labels, label_weights, bbox_targets, *_ = self.get_targets(*args)
        return labels, label_weights, bbox_targets


def flatten_maps(maps: list[Tensor], channels: int) -> Tensor:
    """Maps ``(num_imgs, num_priors * channels, H, W)`` as one ``(n, channels)`` float32 (or float64) tensor."""
    return at_least_float32(torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps]))


def flatten_targets(targets: list[Tensor]) -> Tensor:
    """Targets ``(num_imgs, num_anchors, ...)`` of every level as one tensor, in the order of :func:`flatten_maps`."""
    return torch.cat([level.flatten(0, 1) for level in targets])
