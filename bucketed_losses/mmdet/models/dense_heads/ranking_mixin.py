"""Mixins that train dense heads with sigmoid scores with a ranking loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmdet.structures.bbox import cat_boxes, get_box_tensor
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..classifiers import ClassifierMixin
from ..losses import ImageRows, check_decodes_boxes, check_head_losses, check_no_sampling, ranking_and_box_losses
from ..losses.box_weighting import at_least_float32, nan_if_not_finite

if TYPE_CHECKING:
    from mmdet.models.dense_heads import AnchorHead as _Host
else:
    _Host = object


class RankingHeadMixin(ClassifierMixin, _Host):
    """A mixin for MMDetection's dense heads, with anchors or without: a sigmoid classifier without background.

    A subclass sets ``classifiers`` (see :class:`ClassifierMixin`), and its ``loss_by_feat`` passes predictions and
    targets to :meth:`ranking_losses`.

    Attributes:
        default_init: The ``init_cfg`` of a head without ``own_init``, if the config has none.
        box_losses: Attributes that are losses on decoded boxes.
        assigned_by_boxes: Whether predicted boxes decide what is positive. Boxes that are not finite may then leave no
            positive, so the losses become NaN wherever they are. Otherwise this happens at the positives only.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss, the box loss is on deltas, or the sampler leaves anchors out.
    """

    default_init: dict | list = dict(type='Normal', layer='Conv2d', std=0.01)
    box_losses: tuple[str, ...] = ('loss_bbox',)
    assigned_by_boxes = False

    def __init__(self, *args: Any, loss_cls: dict, init_cfg: dict | list | None = None, **kwargs: Any) -> None:
        if not self.own_init:
            init_cfg = init_cfg or copy.deepcopy(self.default_init)
        if init_cfg:
            kwargs['init_cfg'] = init_cfg
        super().__init__(*args, loss_cls={'use_sigmoid': True, **loss_cls}, **kwargs)
        check_head_losses(self, self.box_losses)
        check_no_sampling(self)

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        """Boxes ``(n, 4)``, x1 y1 x2 y2 in pixels, of predictions ``(n, ...)`` at their priors ``(n, ...)``."""
        return get_box_tensor(self.bbox_coder.decode(priors, predictions))

    def target_boxes(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """What :meth:`decode` should give for ground-truth boxes ``(n, 4)`` at their priors: here, these boxes."""
        return boxes

    def ranking_losses(
        self,
        logits: Tensor,
        predictions: Tensor,
        priors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        images: ImageRows | None = None,
        *,
        quality: Tensor | None = None,
        box_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Rank the predictions of all levels and images of the batch together, in any order.

        Args:
            logits: ``(n, num_classes)``.
            predictions: ``(n, ...)`` inputs of :meth:`decode`, for example deltas or distances.
            priors: ``(n, ...)`` priors of the predictions, for example anchors or points.
            labels: ``(n,)`` class indices, ``num_classes`` for background.
            label_weights: ``(n,)``, 0 for ignored predictions; or ``(n, num_classes)``, 0 for ignored entries.
            bbox_targets: ``(n, 4)`` ground-truth boxes of the positives, x1 y1 x2 y2 in pixels.
            images: The images of the predictions, for a loss that ranks each image separately.
            quality: ``(n,)`` targets in [0, 1], read at the positives; None for the IoUs of their boxes.
            box_weights: ``(n,)`` weights of the box loss, read at the positives; None for the scores.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox`` and the losses of :meth:`other_box_losses`. If
            there is no positive, all are 0 and connected to the predictions, except with DR Loss or a memory.
        """
        positive = self.positives(labels, label_weights)
        all_predictions = predictions
        priors, predictions = priors[positive], predictions[positive]
        targets = self.target_boxes(priors, bbox_targets[positive])
        losses = ranking_and_box_losses(
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
            None if quality is None else quality[positive],
            None if box_weights is None else box_weights[positive],
        )
        return nan_if_not_finite(losses, all_predictions if self.assigned_by_boxes else predictions)

    def positives(self, labels: Tensor, label_weights: Tensor) -> Tensor:
        """``(num_pos,)`` indices of the positives that are not ignored; arguments as for :meth:`ranking_losses`."""
        positive = labels < self.num_classes
        if label_weights.dim() == 2:
            own = labels.clamp(max=self.num_classes - 1).unsqueeze(1)
            label_weights = label_weights.gather(1, own).squeeze(1)
        return (positive & (label_weights > 0)).nonzero().squeeze(1)

    def other_box_losses(
        self, priors: Tensor, predictions: Tensor, targets: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """Further losses of the positives' boxes, by log name; they are balanced together with ``loss_bbox``."""
        return {}

    def image_rows(self, sizes: list[int], num_images: int, device: torch.device) -> ImageRows | None:
        """The images of predictions in the order of :func:`flatten_maps`, if the loss reads them.

        Args:
            sizes: The number of predictions of one image on each level.
            num_images: The number of images in the batch.
            device: The device of the predictions.
        """
        return image_rows(sizes, num_images, device) if self.loss_cls.needs_images else None


class RankingDenseHeadMixin(RankingHeadMixin):
    """A mixin for subclasses of ``AnchorHead``: all anchors of all levels and images are ranked, without sampling.

    Raises:
        ValueError: As :class:`RankingHeadMixin`; or ``reg_decoded_bbox`` is False.
    """

    box_channels = 4

    def __init__(self, *args: Any, reg_decoded_bbox: bool = True, **kwargs: Any) -> None:
        check_decodes_boxes(self, reg_decoded_bbox)
        super().__init__(*args, reg_decoded_bbox=True, **kwargs)

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
        # This must come before the targets, because ATSS's get_targets joins the levels of this list in place.
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
        """The priors for :meth:`decode`, as one tensor, from anchors ``(num_anchors, 4)`` of each image and level."""
        return torch.cat([get_box_tensor(cat_boxes(level)) for level in zip(*anchors, strict=True)])

    def level_targets(self, *args: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """``labels``, ``label_weights`` and ``bbox_targets`` per level, ``(num_imgs, num_anchors, ...)``.

        Arguments are those of the head's ``get_targets``. A head overrides this method if its ``get_targets`` returns
        them in another order.
        """
        labels, label_weights, bbox_targets, *_ = self.get_targets(*args)
        return labels, label_weights, bbox_targets


def flatten_maps(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Maps ``(num_imgs, num_priors * channels, H, W)`` as one ``(n, channels)`` float32 (or float64) tensor."""
    return at_least_float32(torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps]))


def maps_by_image(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Maps ``(N, num_priors * channels, H, W)`` of every level as ``(N, n, channels)``, at least float32."""
    levels = [level.permute(0, 2, 3, 1).reshape(len(level), -1, channels) for level in maps]
    return at_least_float32(torch.cat(levels, dim=1))


def image_rows(sizes: list[int], num_images: int, device: torch.device) -> ImageRows:
    """The images of predictions in the order of :func:`flatten_maps`; arguments as for the method of the mixin."""
    rows = [torch.arange(num_images, device=device).repeat_interleave(size) for size in sizes]
    return ImageRows(torch.cat(rows), num_images)


def flatten_targets(targets: list[Tensor]) -> Tensor:
    """Targets ``(num_imgs, num_anchors, ...)`` of every level as one tensor, in the order of :func:`flatten_maps`."""
    return torch.cat([level.flatten(0, 1) for level in targets])
