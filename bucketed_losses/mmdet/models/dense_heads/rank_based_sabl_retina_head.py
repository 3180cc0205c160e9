"""SABL RetinaNet trained with a ranking loss."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import GuidedAnchorHead, SABLRetinaHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..classifiers import ClassifierMixin
from ..losses import check_no_sampling, check_ranks
from ..losses.side_aware_boxes import Sides, side_aware_boxes
from ..recipes import Role, ranking_head
from ..rules import SIDE_AWARE_HEAD, nothing_sampled
from .ranking_mixin import flatten_maps, flatten_targets, image_rows


@ranking_head(SABLRetinaHead, role=Role.DENSE, rules=(*SIDE_AWARE_HEAD, nothing_sampled()))
@MODELS.register_module()
class RankBasedSABLRetinaHead(ClassifierMixin, SABLRetinaHead):
    """``SABLRetinaHead`` trained with a ranking loss.

    All levels and images are ranked together. The label of a positive is the IoU of the box that its buckets and
    offsets decode to. The losses of buckets and offsets stay in place of a box loss: each positive is weighted by its
    score. With a loss that balances itself, both are scaled by one factor, so their ratio does not change; swapped
    configs set ``self_balancing=False``, and both keep their weights. In inference, scores are not multiplied by the
    confidences of the buckets.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        kwargs: As for :class:`mmdet.models.SABLRetinaHead`. ``init_cfg`` defaults to a classifier bias of 0.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss, or the sampler leaves anchors out.
    """

    classifiers = ('retina_cls',)

    def __init__(self, *args: Any, loss_cls: dict, init_cfg: dict | list | None = None, **kwargs: Any) -> None:
        super().__init__(
            *args,
            loss_cls={'use_sigmoid': True, **loss_cls},
            init_cfg=init_cfg or dict(type='Normal', layer='Conv2d', std=0.01),
            **kwargs,
        )
        check_ranks(self, "MMDetection's own head")
        check_no_sampling(self)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[tuple[Tensor, Tensor]],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.SABLRetinaHead.loss_by_feat`.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox_cls`` and ``loss_bbox_reg``. If there is no positive,
            all are 0 and connected to the predictions, except with DR Loss or a memory.
        """
        sizes = [level.shape[-2:] for level in cls_scores]
        device = cls_scores[0].device
        approxs, inside = GuidedAnchorHead.get_sampled_approxs(self, sizes, batch_img_metas, device=device)
        squares = self.get_anchors(sizes, batch_img_metas, device=device)
        level_targets = self.get_targets(
            approxs, inside, squares, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        labels, label_weights, bucket_targets, bucket_weights, offset_targets, offset_weights = (
            flatten_targets(part) for part in level_targets[:6]
        )
        positive = ((labels < self.num_classes) & (label_weights > 0)).nonzero().squeeze(1)
        channels = 4 * self.side_num
        predicted = Sides(*(flatten_maps(list(maps), channels) for maps in zip(*bbox_preds, strict=True)))
        logits = flatten_maps(cls_scores, self.cls_out_channels)
        boxes = side_aware_boxes(
            self,
            torch.cat([torch.cat(level) for level in zip(*squares, strict=True)])[positive],
            predicted.at(positive),
            Sides(bucket_targets, offset_targets).at(positive),
            Sides(bucket_weights, offset_weights).at(positive),
            logits[positive],
            divisors=(channels, 4 * self.bbox_coder.offset_topk),
        )
        images = None
        if self.loss_cls.needs_images:
            images = image_rows([level.size(1) for level in level_targets[0]], len(batch_img_metas), device)
        return self.loss_cls.losses_with_boxes(logits, labels, label_weights, positive, boxes, images)

    def _bbox_post_process(self, results: InstanceData, *args: Any, **kwargs: Any) -> InstanceData:
        """NMS; the confidences of the buckets, ``score_factors``, are not used."""
        results.pop('score_factors')
        return super()._bbox_post_process(results, *args, **kwargs)
