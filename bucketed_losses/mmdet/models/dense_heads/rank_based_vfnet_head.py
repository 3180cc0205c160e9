"""VarifocalNet trained with a ranking loss in place of varifocal loss."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads import VFNetHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses import ranking_and_box_losses, score_weighted_box_loss
from ..recipes import Role, ranking_head
from ..rules import decoded_box_loss, nothing_sampled, ranking_loss
from .float32_deform_conv import use_float32_deform_convs
from .ranking_mixin import RankingHeadMixin, flatten_maps

_RULES = (
    ranking_loss(),
    decoded_box_loss(1.5, 'loss_bbox', default_fits=True, keep_weight=True),
    decoded_box_loss(2.0, 'loss_bbox_refine', default_fits=True, keep_weight=True),
    nothing_sampled(),
)


@ranking_head(VFNetHead, role=Role.DENSE, rules=_RULES, unused=['use_vfl', 'loss_cls_fl', 'sync_num_pos'])
@MODELS.register_module()
class RankBasedVFNetHead(RankingHeadMixin, VFNetHead):
    """``VFNetHead`` trained with a ranking loss.

    All levels and images are ranked together. The target of a positive is the IoU of its refined box. These targets
    replace the IoU-aware classification scores of varifocal loss. The head keeps the box refinement by a star-shaped
    deformable convolution, and both box losses. The box losses are weighted by scores as in all heads of this package,
    and balanced together, so the ratio of their weights does not change. As in ``VFNetHead``, ``loss_bbox`` is logged
    for the first boxes and ``loss_bbox_rf`` for the refined boxes. aLRP Loss uses the errors of the refined boxes and
    balances their loss; the loss of the first boxes keeps its weight.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        use_vfl, loss_cls_fl: Not used; accepted so that a config may inherit one written for ``VFNetHead``.
        kwargs: As for :class:`mmdet.models.VFNetHead`. ``init_cfg`` defaults to a classifier bias of 0.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss, a box loss is on deltas, or the sampler leaves locations out.
    """

    classifiers = ('vfnet_cls',)
    box_losses = ('loss_bbox', 'loss_bbox_refine')

    def __init__(
        self, *args: Any, loss_cls: dict, use_vfl: bool = True, loss_cls_fl: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, loss_cls=loss_cls, use_vfl=True, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        use_float32_deform_convs(self)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        bbox_preds_refine: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.VFNetHead.loss_by_feat`.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox`` and ``loss_bbox_rf``. If there is no positive, all
            are 0 and connected to the predictions, except with DR Loss or a memory.
        """
        sizes = [level.shape[-2:] for level in cls_scores]
        points = self.fcos_prior_generator.grid_priors(sizes, bbox_preds[0].dtype, bbox_preds[0].device)
        level_labels, label_weights, level_targets, _ = self.get_targets(
            cls_scores, points, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        num_images = len(batch_img_metas)
        labels = torch.cat(level_labels)
        if label_weights is None:  # with use_atss=False, targets are those of FCOS, which ignores no point
            label_weights = torch.ones_like(labels)
        positive = ((labels < self.num_classes) & (label_weights > 0)).nonzero().squeeze(1)
        positive_points = torch.cat([level.repeat(num_images, 1) for level in points])[positive]
        first, refined, targets = (
            self.bbox_coder.decode(positive_points, distances[positive])
            for distances in (flatten_maps(bbox_preds, 4), flatten_maps(bbox_preds_refine, 4), torch.cat(level_targets))
        )
        logits = flatten_maps(cls_scores, self.cls_out_channels)
        loss_of_first = score_weighted_box_loss(
            self.loss_bbox,
            first,
            targets,
            logits[positive],
            self.loss_cls.shared,
            self.loss_cls.equal_box_weights,
        )
        losses = ranking_and_box_losses(
            self.loss_cls,
            self.loss_bbox_refine,
            logits,
            labels,
            label_weights,
            positive,
            refined,
            targets,
            self.image_rows([len(level) for level in points], num_images, labels.device),
            {'loss_first_bbox': loss_of_first},
        )
        losses['loss_bbox_rf'] = losses.pop('loss_bbox')
        losses['loss_bbox'] = losses.pop('loss_first_bbox')
        return losses
