"""CenterNet of CenterNet2 (``CenterNetUpdateHead``) trained with a ranking loss in place of Gaussian focal loss."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import CenterNetUpdateHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..losses import PositiveBoxes, SeparateBoxes, highest_probability
from ..losses.box_weighting import nan_if_not_finite
from ..recipes import Role, ranking_head
from ..rules import POINT_HEAD
from .ranking_mixin import RankingHeadMixin, flatten_maps, image_rows


@ranking_head(CenterNetUpdateHead, role=Role.DENSE, rules=POINT_HEAD)
@MODELS.register_module()
class RankBasedCenterNetUpdateHead(RankingHeadMixin, CenterNetUpdateHead):
    """``CenterNetUpdateHead`` trained with a ranking loss.

    All levels and images are ranked together. The positives are those of ``CenterNetUpdateHead``: the central location
    of an object, and up to ``more_pos_topk`` locations around it whose boxes fit it. The target of a positive is the
    IoU of its box. If a location is positive for several objects, the last of them counts. Gaussian focal loss gives
    other locations near a centre small weights, ``(1 - heat) ** 4``; a ranking loss has no weights, so those with a
    large heat are ignored. The box loss is computed at the locations where ``CenterNetUpdateHead`` computes it. It is
    weighted by scores and, with ``soft_weight_on_reg``, also by the heat.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        ignored_heat: Logits of a class that are not positive are ignored if the heat map of the class exceeds this
            value. At 0.16, the weight in Gaussian focal loss would be one half.
        kwargs: As for :class:`mmdet.models.CenterNetUpdateHead`. ``init_cfg`` defaults to a classifier bias of 0.

    Raises:
        ValueError: As :class:`RankingHeadMixin`, or ``ignored_heat`` is not in [0, 1].
    """

    classifiers = ('conv_cls',)

    def __init__(self, *args: Any, ignored_heat: float = 0.16, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= ignored_heat <= 1:
            raise ValueError(f'{type(self).__name__}: ignored_heat must lie in [0, 1], got {ignored_heat}')
        self.ignored_heat = ignored_heat

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.CenterNetUpdateHead.loss_by_feat`."""
        num_images = len(batch_img_metas)
        sizes = [(level.size(2), level.size(3)) for level in cls_scores]
        levels = self.prior_generator.grid_priors(sizes, dtype=bbox_preds[0].dtype, device=bbox_preds[0].device)
        points = torch.cat([level.repeat(num_images, 1) for level in levels])
        strides = torch.cat(
            [
                level.new_full((num_images * len(level), 1), stride)
                for level, stride in zip(levels, self.strides, strict=True)
            ]
        )
        logits, distances = flatten_maps(cls_scores, self.cls_out_channels), flatten_maps(bbox_preds, 4)
        heat, distance_targets = self.get_targets(levels, batch_gt_instances)
        empty = torch.tensor([len(image) == 0 for image in batch_gt_instances], device=points.device)
        images = image_rows([len(level) for level in levels], num_images, points.device)
        heat = torch.where(empty[images.image, None], 0.0, heat.float())  # there it has num_classes everywhere
        owners = self.owners(points, distances, sizes, batch_gt_instances)
        boxes = self.decode(points, distances * strides)

        ranked = owners >= 0
        labels = torch.full_like(owners, self.num_classes)
        labels[ranked] = torch.cat([image.labels for image in batch_gt_instances])[owners[ranked]]
        label_weights = (heat <= self.ignored_heat).float()
        positive = ranked.nonzero().squeeze(1)
        label_weights[positive, labels[positive]] = 1
        regressed = (distance_targets.amax(dim=1) >= 0).nonzero().squeeze(1)
        weights = highest_probability(logits[regressed])
        if self.soft_weight_on_reg:
            weights = weights * heat[regressed].amax(dim=1)
        regressed_boxes = PositiveBoxes(
            self.loss_bbox,
            boxes[regressed],
            self.decode(points[regressed], distance_targets[regressed] * strides[regressed]),
            logits[regressed],
            weights=weights,
        )
        targets = torch.cat([image.bboxes for image in batch_gt_instances])[owners[positive]]
        losses = self.loss_cls.losses_with_boxes(
            logits,
            labels,
            label_weights,
            positive,
            SeparateBoxes(self.loss_bbox, boxes[positive], targets, logits[positive], regressed=regressed_boxes),
            images if self.loss_cls.needs_images else None,
        )
        return nan_if_not_finite(losses, distances)  # predicted boxes decide what is positive

    def owners(
        self, points: Tensor, distances: Tensor, sizes: list[tuple[int, int]], batch_gt_instances: InstanceList
    ) -> Tensor:
        """The index in the batch of the object that a location is positive for, ``(n,)``; -1 for none.

        Args:
            points: ``(n, 2)`` locations in pixels.
            distances: ``(n, 4)`` predicted distances to the sides, in strides.
            sizes: Height and width of each level.
            batch_gt_instances: The objects of each image.
        """
        # add_cls_pos_inds returns the labels of the objects of its positives. Here these are their indices.
        numbered, first = [], 0
        for image in batch_gt_instances:
            indices = torch.arange(first, first + len(image), device=points.device)
            numbered.append(InstanceData(bboxes=image.bboxes, labels=indices))
            first += len(image)
        rows, objects = self.add_cls_pos_inds(points, distances.detach(), points.new_tensor(sizes), numbered)
        owners = torch.full((len(points),), -1, device=points.device)
        return owners if rows is None else owners.scatter_reduce(0, rows, objects, 'amax')
