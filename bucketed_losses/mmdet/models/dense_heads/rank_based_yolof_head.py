"""YOLOF trained with a ranking loss."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import YOLOFHead
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..recipes import Role, ranking_head
from ..rules import decoded_box_loss, decoded_boxes, nothing_sampled, ranking_loss
from .ranking_mixin import RankingDenseHeadMixin, flatten_maps

# The box coder stays: its limit on the shift of a centre is in pixels and fits its stds.
_RULES = (ranking_loss(), decoded_box_loss(2.0), decoded_boxes(), nothing_sampled())


@ranking_head(YOLOFHead, role=Role.DENSE, rules=_RULES)
@MODELS.register_module()
class RankBasedYOLOFHead(RankingDenseHeadMixin, YOLOFHead):
    """``YOLOFHead`` trained with a ranking loss.

    All images are ranked together. The head keeps its implicit objectness: the score is the product of the
    probabilities of the class branch and the objectness branch. The logit of this product is what is ranked, because
    detections are sorted by it. The target of a positive is the IoU of its box. If an anchor is matched with several
    objects, its label and the target of its box are those of one object. In ``YOLOFHead``, it has a box loss for each.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        kwargs: As for :class:`mmdet.models.YOLOFHead`. The biases of both branches start with a score of 0.5.
    """

    classifiers = ('cls_score', 'object_pred')
    num_factors = 2
    assigned_by_boxes = True
    own_init = True

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.YOLOFHead.loss_by_feat`."""
        num_images = len(batch_img_metas)
        sizes = [level.shape[-2:] for level in cls_scores]
        anchors, flags = self.get_anchors(sizes, batch_img_metas, device=cls_scores[0].device)
        deltas = flatten_maps(bbox_preds, 4)
        image_labels, image_weights, _, _, samples, *_ = multi_apply(
            self._get_targets_single,
            list(deltas.detach().reshape(num_images, -1, 4)),
            [level[0] for level in anchors],
            [level[0] for level in flags],
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore or [None] * num_images,
        )
        labels = torch.cat(image_labels)
        bbox_targets = torch.zeros_like(deltas)
        bbox_targets[labels < self.num_classes] = torch.cat([sample.pos_gt_bboxes for sample in samples]).to(deltas)
        return self.ranking_losses(
            flatten_maps(cls_scores, self.cls_out_channels),
            deltas,
            self.flat_priors(anchors),
            labels,
            torch.cat(image_weights),
            bbox_targets,
            self.image_rows([len(image_labels[0])], num_images, labels.device),
        )
